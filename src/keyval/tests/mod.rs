//! Images against a search through all pairs, and what readers see while they are replaced.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::address::Network;
use super::image::Image;
use super::segment::Turned;
use super::*;

mod bodies;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(limit)).unwrap()
    }
}

fn limits(kind: Kind) -> Limits {
    Limits { kind, words: 1 << 20, min: 0 }
}

fn build_with(body: &[u8], format: Format, limits: Limits, meta: Meta) -> Result<Built, Refusal> {
    let mut build = Build::new(body.to_vec(), format, limits, meta, 42);
    loop {
        if let Some(built) = build.step()? {
            return Ok(built);
        }
    }
}

fn build(body: &str, format: Format, kind: Kind) -> Result<Built, Refusal> {
    build_with(body.as_bytes(), format, limits(kind), Meta::default())
}

impl Room for Vec<u8> {
    fn fill(&mut self, len: usize, words: impl Iterator<Item = u64>) -> Result<(), NoMemory> {
        self.clear();
        self.extend(words.flat_map(u64::to_le_bytes));
        assert_eq!(self.len(), len.next_multiple_of(8));
        self.truncate(len);
        Ok(())
    }
}

fn found(words: &[[u8; 8]], key: &str) -> Option<String> {
    let value = Image::of(words).unwrap().look_up(key.as_bytes())?;
    let mut text = Vec::new();
    value.append(&mut text)?;
    Some(String::from_utf8(text).unwrap())
}

/// The value that a request finds which has seen this content before.
fn found_by(
    segment: &Segment<'_>,
    key: &str,
    pinned: &Cell<usize>,
    age: Option<Age>,
) -> Option<String> {
    let mut text = Vec::new();
    let found = segment.look_up(key.as_bytes(), pinned, &Seen::nothing(), || age, &mut text);
    found.unwrap().then(|| String::from_utf8(text).unwrap())
}

fn pairs(image: &[[u8; 8]]) -> BTreeMap<String, String> {
    let mut pairs = Pairs::from(Image::of(image).unwrap(), 0);
    let mut all = BTreeMap::new();
    loop {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        match pairs.next(&mut key, &mut value) {
            Some(true) => {
                let [key, value] = [key, value].map(|bytes| String::from_utf8(bytes).unwrap());
                assert!(all.insert(key, value).is_none());
            }
            Some(false) => {}
            None => return all,
        }
    }
}

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

fn publish(segment: &Segment<'_>, image: Built) -> u64 {
    let writer = Writer::take(segment, 1, 1, |_, _| false).unwrap();
    let mut publishing = Publishing::begin(segment, &writer, image).unwrap();
    let generation = loop {
        if let Some(generation) = publishing.step(segment, &writer).unwrap() {
            break generation;
        }
    };
    writer.give_back(segment);
    generation
}

#[test]
fn what_does_not_fit_or_has_too_few_keys_is_refused() {
    let small = Limits { kind: Kind::String, words: 100, min: 2 };
    let text =
        |count: u64| (0..count).fold(String::new(), |text, key| text + &format!("key{key}\n"));
    let build = |count| build_with(text(count).as_bytes(), Format::Text, small, Meta::default());
    assert_eq!(build(1), Err(Refusal::TooFew { count: 1, min: 2 }));
    let most = (2..100).take_while(|count| build(*count).is_ok()).last().unwrap();
    assert!(most > 15 && build(most).unwrap().len() <= 100);
    assert_eq!(build(most + 1), Err(Refusal::DoesNotFit));
    assert_eq!(build(90), Err(Refusal::DoesNotFit));
}

/// Short keys of few letters: many are alike.
fn word(random: &mut Random) -> String {
    (0..=random.below(10)).map(|_| ["a", "b", "é"][random.below(3) as usize]).collect()
}

fn network(random: &mut Random) -> String {
    let len = random.below(34);
    if random.below(2) == 0 {
        let address = std::net::Ipv4Addr::from(random.below(1 << 31) << 1 & 0xc0c0_00ff);
        return if len > 32 { address.to_string() } else { format!("{address}/{len}") };
    }
    let high = u128::from(random.below(4)) << 126 | u128::from(random.below(4)) << 60;
    let address = std::net::Ipv6Addr::from(high | u128::from(random.below(3)));
    if len > 32 { address.to_string() } else { format!("{address}/{}", len * 4) }
}

#[test]
fn images_find_what_a_search_through_all_finds() {
    let mut random = Random(5);
    for round in 0..60 {
        for kind in Kind::ALL {
            let one =
                |random: &mut Random| if kind == Kind::Ip { network(random) } else { word(random) };
            let same = |key: &String| match kind {
                Kind::Ip => format!("{:?}", Network::parse(key.as_bytes()).unwrap()),
                _ => key.clone(),
            };
            let mut all: BTreeMap<String, (String, String)> = BTreeMap::new();
            for number in 0..random.below(if round % 20 == 0 { 3000 } else { 40 }) {
                let key = one(&mut random);
                all.entry(same(&key)).or_insert((key, number.to_string()));
            }
            let mut body = String::new();
            for (key, value) in all.values() {
                writeln!(body, "{key} {value}").unwrap();
            }
            let image = build(&body, Format::Text, kind).unwrap();
            assert_eq!(pairs(&image), all.values().cloned().collect());
            for _ in 0..200 {
                let key = one(&mut random);
                let fits = |(theirs, _): &&(String, String)| match kind {
                    Kind::String => *theirs == key,
                    Kind::Prefix => key.starts_with(theirs.as_str()),
                    Kind::Ip => {
                        let [theirs, wanted] =
                            [theirs, &key].map(|it| Network::parse(it.as_bytes()).unwrap());
                        theirs.contains(wanted)
                    }
                };
                let rank = |(theirs, _): &&(String, String)| match kind {
                    Kind::Ip => usize::from(Network::parse(theirs.as_bytes()).unwrap().len),
                    _ => theirs.len(),
                };
                let expected =
                    all.values().filter(fits).max_by_key(rank).map(|(_, value)| value.clone());
                assert_eq!(found(&image, &key), expected, "{kind:?} {key} {body}");
            }
        }
    }
}

#[test]
fn networks_are_keys_once_and_what_is_none_is_refused() {
    let refusal = |body| match build(body, Format::Text, Kind::Ip) {
        Err(Refusal::Line(line, why)) => format!("{line}: {why}"),
        other => format!("{other:?}"),
    };
    assert_eq!(refusal("10.0.0.0/8\n\n10.1.2.3/8 x"), "3: duplicate key \"10.1.2.3/8\"");
    assert_eq!(refusal("::1\nlocalhost"), "2: \"localhost\" is not an address and not a network");
    let image =
        build("10.0.0.0/8 a\n10.1.0.0/16 b\n10.1.2.3 c\n::/0 six", Format::Text, Kind::Ip).unwrap();
    let found = |key| found(&image, key).unwrap_or_default();
    assert_eq!(
        [found("10.1.2.3"), found("10.1.2.4"), found("10.2.0.1"), found("11.0.0.1")],
        ["c", "b", "a", ""]
    );
    assert_eq!(
        [found("10.1.2.0/24"), found("10.0.0.0/8"), found("10.0.0.0/7"), found("unix:")],
        ["b", "a", "", ""]
    );
    assert_eq!([found("2001:db8::1"), found("::ffff:10.1.2.3")], ["six", "c"]);
}

#[test]
fn damage_is_no_panic() {
    let mut random = Random(9);
    for kind in Kind::ALL {
        let body = (0..200_u32).fold(String::new(), |body, key| match kind {
            Kind::Ip => body + &format!("10.{}.{}.0/24 {key}\n", key / 100, key % 100),
            _ => body + &format!("{} {key}\n", "x".repeat(key as usize + 1)),
        });
        let image = build(&body, Format::Text, kind).unwrap();
        for _ in 0..800 {
            let mut damaged = image.clone();
            for _ in 0..=random.below(4) {
                let at = if random.below(2) == 0 {
                    random.below(16)
                } else {
                    random.below(u32::try_from(damaged.len()).unwrap())
                };
                let word = [
                    0,
                    u64::MAX,
                    1 << 63,
                    random.below(1 << 31).into(),
                    u64::from(random.below(1 << 31)) << 32 | u64::from(random.below(5000)),
                ];
                damaged[at as usize] = word[random.below(5) as usize].to_le_bytes();
            }
            let Some(image) = Image::of(damaged.as_slice()) else { continue };
            for key in ["10.1.1.1", "xxxx", "x", ""] {
                if let Some(value) = image.look_up(key.as_bytes()) {
                    let _ = value.append(&mut Vec::new());
                }
            }
            image.meta();
            let mut pairs = Pairs::from(image, 0);
            for _ in 0..1000 {
                if pairs.next(&mut Vec::new(), &mut Vec::new()).is_none() {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_request_sees_the_content_that_it_saw_first_while_that_is_there() {
    let words = words(Segment::words_for(256));
    let segment = Segment::begin(&words).unwrap();
    let look_up = |key: &str, pinned: &Cell<usize>| found_by(&segment, key, pinned, None);
    let image =
        |value: &str| build(&format!("a {value}\nb {value}"), Format::Text, Kind::String).unwrap();
    let before = Cell::new(0);
    assert_eq!(look_up("a", &before), None);
    assert_eq!(publish(&segment, image("1")), 1);
    assert_eq!(look_up("b", &before), None, "there was none when it looked first");
    let first = Cell::new(0);
    assert_eq!(look_up("a", &first).as_deref(), Some("1"));
    assert_eq!(publish(&segment, image("2")), 2);
    assert_eq!(look_up("b", &first).as_deref(), Some("1"));
    assert_eq!(look_up("b", &Cell::new(0)).as_deref(), Some("2"));
    assert_eq!(publish(&segment, image("3")), 3);
    assert_eq!(look_up("b", &first).as_deref(), Some("3"), "the first one is gone");
    assert!(Segment::of(&words).is_some());
    assert!(Segment::of(words.get(1..).unwrap()).is_none());
}

#[test]
fn an_old_content_is_gone_until_it_is_renewed() {
    let words = words(Segment::words_for(256));
    let segment = Segment::begin(&words).unwrap();
    let meta = Meta { taken: 1000, etag: b"\"e\"".to_vec(), ..Meta::default() };
    let image = build_with(b"a", Format::Text, limits(Kind::String), meta.clone()).unwrap();
    publish(&segment, image.clone());
    let is_there =
        |now| found_by(&segment, "a", &Cell::new(0), Some(Age { now, timeout: 500 })).is_some();
    assert!(is_there(1500) && !is_there(1501));
    segment.renew(1, 2000);
    assert!(is_there(2500) && !is_there(2501));
    publish(&segment, image);
    assert!(!is_there(2000), "it was renewed for another");
    assert_eq!(segment.meta().unwrap().1, meta);
}

#[test]
fn writers_exclude_each_other_and_who_is_gone_is_replaced() {
    let words = words(Segment::words_for(256));
    let segment = Segment::begin(&words).unwrap();
    let image = build("a", Format::Text, Kind::String).unwrap();
    publish(&segment, image.clone());
    let first = Writer::take(&segment, 10, 1, |_, _| false).unwrap();
    assert!(Writer::take(&segment, 10, 1, |_, _| true).is_none(), "not one of the same process");
    assert!(Writer::take(&segment, 11, 1, |_, _| false).is_none());
    let mut left = Publishing::begin(&segment, &first, image.clone()).unwrap();
    assert!(found_by(&segment, "a", &Cell::new(0), None).is_some(), "what was current stays");
    let second = Writer::take(&segment, 11, 1, |pid, started| (pid, started) == (10, 1)).unwrap();
    assert_eq!(left.step(&segment, &first), Err(Turned));
    first.give_back(&segment);
    let mut publishing = Publishing::begin(&segment, &second, image).unwrap();
    assert_eq!(publishing.step(&segment, &second), Ok(Some(2)));
    second.give_back(&segment);
    assert!(Writer::take(&segment, 12, 1, |_, _| false).is_some());
}

#[test]
fn readers_see_one_content_or_the_next_and_no_mixture() {
    let words = words(Segment::words_for(4096));
    let segment = Segment::begin(&words).unwrap();
    let image = |number: usize| {
        let value = format!("{number:0width$}", width = 3 + number % 40);
        let body = (0..50).fold(String::new(), |body, key| body + &format!("key{key} {value}\n"));
        build(&body, Format::Text, Kind::String).unwrap()
    };
    publish(&segment, image(0));
    let ends = AtomicBool::new(false);
    let swaps = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let ends = &ends;
                scope.spawn(move || {
                    let mut reads = 0_u64;
                    while !ends.load(Ordering::Relaxed) || reads < 1000 {
                        let text = found_by(&segment, "key7", &Cell::new(0), None);
                        let text = text.unwrap_or_else(|| panic!("{reader}"));
                        assert_eq!(text.len(), 3 + text.parse::<usize>().unwrap() % 40, "{text}");
                        reads += 1;
                    }
                })
            })
            .collect();
        let images: Vec<Built> = (0..80).map(image).collect();
        let mut swaps = 0;
        for round in 0..2000 {
            swaps = publish(&segment, images[round % 80].clone());
        }
        ends.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
        swaps
    });
    assert_eq!(swaps, 2001);
}

#[test]
fn a_file_has_all_that_an_image_has() {
    let meta = Meta { etag: b"W/\"\xff\"".to_vec(), ..Meta::default() };
    let when = at(77, Some(("a", -7)));
    for body in ["{}", "{\"a\":\"x\\n\\\"\",\"é\":\"\",\"b\":1}"] {
        let image =
            build_with(body.as_bytes(), Format::Json, limits(Kind::String), meta.clone()).unwrap();
        let mut encoder = Encoder::new(&meta, when.clone());
        let file = loop {
            if let Some(file) = encoder.step(Image::of(image.as_slice()).unwrap()).unwrap() {
                break file;
            }
        };
        let (head, content) = read_state(&file).unwrap();
        assert_eq!((&head.when, &head.etag), (&when, &meta.etag));
        let again = build_with(content, Format::Json, limits(Kind::String), meta.clone()).unwrap();
        assert_eq!(pairs(&again), pairs(&image));
        assert!(serde_json::from_slice::<serde_json::Value>(&file).is_ok());
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert!(read_state(&damaged).is_none(), "{at}");
            assert!(read_state(&file[..at]).is_none());
        }
    }
}

fn at(time: u64, boot: Option<(&str, i64)>) -> When {
    When { time, boot: boot.map(|(id, ms)| SinceBoot { id: id.to_owned(), ms }) }
}

#[test]
fn the_age_of_a_file_is_by_the_clock_that_nobody_sets() {
    let saved = at(5_000, Some(("a", 100)));
    for (now, age, what) in [
        (at(5_200, Some(("a", 350))), 250, "the same boot"),
        (at(9_000_000, Some(("a", 350))), 250, "set forward"),
        (at(3, Some(("a", 350))), 250, "set back"),
        (at(5_200, Some(("b", 350))), 200, "another boot"),
        (at(5_200, None), 200, "a boot that is not known"),
        (at(5_200, Some(("a", 99))), 200, "before it was written"),
        (at(3, Some(("b", 350))), 0, "another boot, and set back"),
    ] {
        assert_eq!(saved.age(&now), age, "{what}");
    }
    assert_eq!(at(5_000, None).age(&at(5_200, Some(("a", 1)))), 200);
    assert_eq!(saved.before(300), at(4_700, Some(("a", -200))));
    assert_eq!(at(1, Some(("a", i64::MIN))).age(&at(5, Some(("a", i64::MAX)))), 4);
}

#[test]
fn a_file_may_have_no_boot() {
    let mut encoder = Encoder::new(&Meta::default(), at(77, None));
    let image = build("{}", Format::Json, Kind::String).unwrap();
    let file = encoder.step(Image::of(image.as_slice()).unwrap()).unwrap().unwrap();
    assert!(file.starts_with(b"{\"keyval\":1,\"time\":77,\"content\":"));
    assert_eq!(read_state(&file).unwrap().0.when, at(77, None));
}
