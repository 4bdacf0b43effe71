//! Worked cases of rule R and of the days.

use std::iter::successors;

use serde_json::Value;

use super::{Schedule, UnixMs, at, cron};

#[test]
fn each_worked_case_holds() {
    let file: Value = serde_json::from_str(include_str!("../testdata/cron.json")).unwrap();
    let cases = file["vectors"].as_array().unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let text = |key: &str| case[key].as_str().unwrap();
        let cron = cron(text("expr"), text("tz"));
        let expected: Vec<_> =
            case["next"].as_array().unwrap().iter().map(|t| at(t.as_str().unwrap())).collect();

        let after = at(text("after"));
        let schedule = Schedule::Cron(cron.clone());
        let next = |due: &UnixMs| schedule.next(*due);
        let found: Vec<_> = successors(schedule.next(after), next).take(expected.len()).collect();
        assert_eq!(found, expected, "{}: {}", text("id"), text("note"));
        for due in &expected {
            assert_eq!(cron.newest(*due), Some(*due), "{}", text("id"));
        }
    }
}

#[test]
fn each_example_of_the_manual_is_accepted() {
    let manual = include_str!("../../../docs/schedules.md");
    let (_, examples) = manual.split_once("\n## Examples\n").unwrap();
    let (examples, _) = examples.split_once("\n## ").unwrap();
    let mut found = 0;
    for example in examples.split("`cron=").skip(1) {
        let (expression, _) = example.split_once('`').unwrap();
        cron(expression, "Europe/Berlin");
        found += 1;
    }
    assert!(found > 15);
}
