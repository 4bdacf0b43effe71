//! A content in a file: JSON, so that it can be read, with a checksum, so that damage is seen.
//!
//! ```text
//! {"keyval":1,"time":1795834620000,"boot":{"id":"7f3c...","ms":86400000},"etag":"\"abc\"","content":
//! {"key":"value",
//! "other":"value"
//! },"checksum":"0123456789abcdef"}
//! ```
//!
//! The checksum is of all bytes before its own member. `boot` may be left out.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::image::{Image, Meta, Pairs};
use super::words::Words;
use crate::os::memory::{NoMemory, fallible};

/// What a file says beside the pairs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHead {
    /// The version of the format.
    keyval: u32,
    /// When the content was up to date.
    #[serde(flatten)]
    pub when: When,
    /// What its sender calls this version.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "bytes")]
    pub etag: Vec<u8>,
}

/// An instant, by two clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct When {
    /// In milliseconds of Unix time.
    pub time: u64,
    /// By a clock that nobody sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<SinceBoot>,
}

/// An instant by the time since a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinceBoot {
    /// Which boot.
    pub id: String,
    /// Milliseconds since then; negative before.
    pub ms: i64,
}

impl When {
    /// So many milliseconds earlier.
    #[must_use]
    pub fn before(mut self, age: u64) -> Self {
        self.time = self.time.saturating_sub(age);
        if let Some(boot) = &mut self.boot {
            boot.ms = boot.ms.saturating_sub_unsigned(age);
        }
        self
    }

    /// How many milliseconds ago it was: since the same boot by the clock that nobody sets, else by the wall
    /// clock; 0 if it has not come yet.
    pub fn age(&self, now: &Self) -> u64 {
        let (then, boot) = (self.boot.as_ref(), now.boot.as_ref());
        let same = then.zip(boot).filter(|(then, now)| then.id == now.id);
        let since_boot = same.and_then(|(then, now)| now.ms.checked_sub(then.ms));
        since_boot
            .and_then(|age| u64::try_from(age).ok())
            .unwrap_or_else(|| now.time.saturating_sub(self.time))
    }
}

const VERSION: u32 = 1;
const CONTENT: &str = ",\"content\":\n";
const CHECKSUM: &str = "},\"checksum\":\"";
const END: &str = "\"}\n";
/// So many pairs are written in a step, or so many bytes and one pair more.
const STEP: usize = 64;
const BYTES: usize = 64 * 1024;

mod bytes {
    //! Bytes as text, of which each character is one of them.

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&bytes.iter().map(|byte| char::from(*byte)).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        text.chars().map(|it| u8::try_from(it).map_err(D::Error::custom)).collect()
    }
}

/// Writes an image as a file, a little at a time.
pub struct Encoder {
    at: usize,
    bytes: Vec<u8>,
    /// Of the bytes up to the last step.
    checksum: Xxh64,
    is_first: bool,
}

impl Encoder {
    /// Begins one that was up to date then.
    pub fn new(meta: &Meta, when: When) -> Self {
        let head = StateHead { keyval: VERSION, when, etag: meta.etag.clone() };
        let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
        bytes.pop();
        bytes.extend_from_slice(CONTENT.as_bytes());
        bytes.push(b'{');
        let mut checksum = Xxh64::new(0);
        checksum.update(&bytes);
        Self { at: 0, bytes, checksum, is_first: true }
    }

    /// Goes on a little with this image, always the same; the file once it is written.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn step<W: Words>(&mut self, image: Image<W>) -> Result<Option<Vec<u8>>, NoMemory> {
        let (mut pairs, from) = (Pairs::from(image, self.at), self.bytes.len());
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let mut is_end = false;
        for _ in 0..STEP {
            if is_end || self.bytes.len() - from >= BYTES {
                break;
            }
            key.clear();
            value.clear();
            match pairs.next(&mut key, &mut value) {
                Some(true) => self.pair(&key, &value)?,
                Some(false) => break,
                None => {
                    self.bytes.push(b'\n');
                    is_end = true;
                }
            }
        }
        self.at = pairs.at();
        self.checksum.update(self.bytes.get(from..).unwrap_or_default());
        if !is_end {
            return Ok(None);
        }
        let end = format!("{CHECKSUM}{:016x}{END}", self.checksum.digest());
        self.bytes.extend_from_slice(end.as_bytes());
        Ok(Some(std::mem::take(&mut self.bytes)))
    }

    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), NoMemory> {
        // A byte becomes six at most.
        fallible(|| self.bytes.try_reserve((key.len() + value.len()) * 6 + 16))?;
        if !std::mem::replace(&mut self.is_first, false) {
            self.bytes.extend_from_slice(b",\n");
        }
        for (text, behind) in [(key, &b":"[..]), (value, b"")] {
            // They were UTF-8 when they were read.
            let _ = serde_json::to_writer(&mut self.bytes, &String::from_utf8_lossy(text));
            self.bytes.extend_from_slice(behind);
        }
        Ok(())
    }
}

/// What a file says, and the object of its pairs; `None` if it is damaged.
pub fn read_state(file: &[u8]) -> Option<(StateHead, &[u8])> {
    let behind = CHECKSUM.len() + 16 + END.len();
    let (before, end) = file.split_at_checked(file.len().checked_sub(behind)?)?;
    let checksum = end.strip_prefix(CHECKSUM.as_bytes())?.strip_suffix(END.as_bytes())?;
    let checksum = u64::from_str_radix(std::str::from_utf8(checksum).ok()?, 16).ok()?;
    if xxh64(before, 0) != checksum {
        return None;
    }
    let line = before.iter().position(|byte| *byte == b'\n')?;
    let (head, content) = before.split_at_checked(line + 1)?;
    let mut head = head.strip_suffix(CONTENT.as_bytes())?.to_vec();
    head.push(b'}');
    let head: StateHead = serde_json::from_slice(&head).ok()?;
    // The object's last brace is what the checksum's member begins with.
    let len = content.len();
    (head.keyval == VERSION)
        .then(|| file.get(line + 1..line + 1 + len + 1))
        .flatten()
        .map(|content| (head, content))
}
