//! etcd, by the JSON of its gateway (v3, 3.4 or later).

mod answer;
mod denial;
#[cfg(test)]
mod tests;
mod transaction;
mod value;

use serde::Deserialize;
use serde_json::json;

use self::transaction::{Key, Keys, READ};
use super::engine::{Answer, Ask, Decoded, Engine, Header, MOST_BYTES, Request, Response};

/// One fleet's part of an etcd.
#[derive(Clone, Debug)]
pub struct Etcd {
    /// What all keys of the fleet begin with: `PREFIX FLEET/`.
    prefix: String,
}

impl Etcd {
    /// That of the fleet `name`.
    pub fn new(prefix: &str, name: &str) -> Self {
        Self { prefix: format!("{prefix}{name}/") }
    }

    fn keys<'a>(&'a self, timer: &'a str) -> Keys<'a> {
        Keys { prefix: &self.prefix, timer }
    }
}

const TRANSACTION: &str = "/v3/kv/txn";
const AUTHENTICATE: &str = "/v3/auth/authenticate";
const OK: u16 = 200;

impl Engine for Etcd {
    fn request(&self, timer: &str, ask: &Ask) -> Request {
        Request { path: TRANSACTION, body: transaction::body(&self.keys(timer), ask) }
    }

    fn decode(&self, ask: &Ask, response: Response<'_>) -> Decoded {
        let unknown = Decoded { header: None, answer: Answer::Unknown };
        let Response { status, body } = response;
        match status {
            _ if body.len() > MOST_BYTES => unknown,
            OK => answer::transaction(body).map_or(unknown, |transaction| transaction.answer(ask)),
            _ => Decoded { header: None, answer: denial::answer(status, body) },
        }
    }

    fn read_many(&self, timers: &[&str]) -> Request {
        let of_timer = &READ[..READ.len() - 1];
        let mut reads: Vec<_> = timers
            .iter()
            .flat_map(|timer| of_timer.iter().map(|key| self.keys(timer).range(*key)))
            .collect();
        reads.push(self.keys("").range(Key::FleetPause));
        Request { path: TRANSACTION, body: json!({"success": reads}).to_string() }
    }

    fn decode_many(
        &self,
        timers: usize,
        response: Response<'_>,
    ) -> (Option<Header>, Result<Vec<Answer>, Answer>) {
        let Response { status, body } = response;
        match status {
            _ if body.len() > MOST_BYTES => (None, Err(Answer::Unknown)),
            OK => match answer::transaction(body) {
                Some(transaction) => {
                    (Some(transaction.header()), transaction.views(timers).ok_or(Answer::Unknown))
                }
                None => (None, Err(Answer::Unknown)),
            },
            _ => (None, Err(denial::answer(status, body))),
        }
    }

    fn authenticate(&self, user: &str, password: &str) -> Request {
        let body = json!({"name": user, "password": password}).to_string();
        Request { path: AUTHENTICATE, body }
    }

    fn token(&self, response: Response<'_>) -> Result<String, Answer> {
        #[derive(Deserialize)]
        struct TokenJson {
            token: String,
        }

        let Response { status, body } = response;
        if status != OK {
            return Err(denial::answer(status, body));
        }
        let json: Option<TokenJson> = serde_json::from_slice(body).ok();
        let plain = |token: &String| {
            (1..=MOST_TOKEN_BYTES).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_graphic())
        };
        // It becomes a part of a header.
        json.map(|json| json.token).filter(plain).ok_or(Answer::Unknown)
    }
}

/// The longest token: a JWT has some 800 bytes.
const MOST_TOKEN_BYTES: usize = 4096;
