//! The days that `L`, `W` and `#` stand for, counted on the calendar.

use jiff::Timestamp;
use jiff::civil::{Date, Weekday, date};
use jiff::tz::TimeZone;

use super::{UnixMs, cron};

#[test]
fn last_days() {
    check("L", "*", |month| Some(month.last_of_month()));
    check("*", "FRI#L", |month| month.nth_weekday_of_month(-1, Weekday::Friday).ok());
    check("?", "7L", |month| month.nth_weekday_of_month(-1, Weekday::Sunday).ok());
    check("LW", "*", |month| {
        let days = (0..3).map(|n| month.last_of_month() - jiff::Span::new().days(n));
        days.into_iter().find(|day| is_working_day(*day))
    });
}

#[test]
fn nth_days_of_the_week() {
    for (n, nth) in ["#1", "#2", "#3", "#4", "#5"].iter().enumerate() {
        let n = i8::try_from(n + 1).unwrap();
        check("*", &format!("0{nth}"), |month| month.nth_weekday_of_month(n, Weekday::Sunday).ok());
        check("*", &format!("tue{nth}"), |month| {
            month.nth_weekday_of_month(n, Weekday::Tuesday).ok()
        });
    }
}

#[test]
fn working_days_next_to_a_day() {
    for number in 1..=31 {
        check(&format!("{number}W"), "*", |month| {
            let day = month.with().day(number).build().ok()?;
            // The nearest one in the same month.
            let mut near: Vec<_> = (-2..=2)
                .map(|n| (i32::abs(n), day + jiff::Span::new().days(n)))
                .filter(|(_, near)| near.month() == day.month() && is_working_day(*near))
                .collect();
            near.sort();
            near.first().map(|(_, day)| *day)
        });
    }
}

fn is_working_day(day: Date) -> bool {
    !matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday)
}

/// At most one due time in each month from 2000 to 2027, on the day that `expected` gives.
fn check(day_of_month: &str, day_of_week: &str, expected: impl Fn(Date) -> Option<Date>) {
    let expression = format!("0 0 {day_of_month} * {day_of_week}");
    let cron = cron(&expression, "UTC");
    let mut month = date(2000, 1, 1);
    let mut after = UnixMs(month.to_zoned(TimeZone::UTC).unwrap().timestamp().as_millisecond() - 1);
    while month.year() < 2028 {
        if let Some(day) = expected(month) {
            after = cron.next(after).unwrap();
            let due = Timestamp::from_millisecond(after.0).unwrap();
            assert_eq!(due.to_zoned(TimeZone::UTC).date(), day, "{expression}");
        }
        month = month.last_of_month().tomorrow().unwrap();
    }
}
