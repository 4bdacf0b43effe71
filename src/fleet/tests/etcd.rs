//! An etcd: one store, transactions in JSON as its gateway reads and writes them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value as Json, json};

use super::broken_rules;
use crate::fleet::engine::{Answer, Ask, Engine, Response};
use crate::fleet::etcd::Etcd;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::fleet) struct Store {
    revision: u64,
    keys: BTreeMap<String, KeyValue>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct KeyValue {
    value: String,
    created: u64,
    modified: u64,
    version: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self { revision: 1, keys: BTreeMap::new() }
    }
}

impl Store {
    /// The response to a transaction.
    pub(in crate::fleet) fn transaction(&mut self, body: &str) -> String {
        let body: Json = serde_json::from_str(body).unwrap();
        let empty = Vec::new();
        let list = |name: &str| body[name].as_array().unwrap_or(&empty);
        let holds = list("compare").iter().all(|compare| self.holds(compare));
        let operations = list(if holds { "success" } else { "failure" });
        let changes = |operation: &Json| {
            let is_known = |request: &Json| self.keys.contains_key(&text(&request["key"]));
            operation.get("request_put").is_some()
                || operation.get("request_delete_range").is_some_and(is_known)
        };
        let writes = operations.iter().any(changes);
        let revision = self.revision + u64::from(writes);
        let mut written = Vec::new();
        let responses: Vec<Json> = operations
            .iter()
            .map(|operation| self.operation(operation, revision, &mut written))
            .collect();
        self.revision = revision;
        let mut answer = Map::new();
        answer.insert("header".to_owned(), header(revision));
        // What is false or empty is left out.
        if holds {
            answer.insert("succeeded".to_owned(), Json::Bool(true));
        }
        if !responses.is_empty() {
            answer.insert("responses".to_owned(), Json::Array(responses));
        }
        Json::Object(answer).to_string()
    }

    fn holds(&self, compare: &Json) -> bool {
        let found = self.keys.get(&text(&compare["key"]));
        let number = |name: &str| compare[name].as_str().unwrap().parse::<u64>().unwrap();
        match (compare["target"].as_str().unwrap(), compare["result"].as_str().unwrap()) {
            ("CREATE", "EQUAL") => found.map_or(0, |kv| kv.created) == number("create_revision"),
            ("MOD", "EQUAL") => found.map_or(0, |kv| kv.modified) == number("mod_revision"),
            // Bytes are compared. A compare with the value of a key that does not exist fails.
            ("VALUE", "LESS") => found.is_some_and(|kv| kv.value < text(&compare["value"])),
            other => panic!("no such compare: {other:?}"),
        }
    }

    fn operation(&mut self, operation: &Json, revision: u64, written: &mut Vec<String>) -> Json {
        let (kind, request) = operation.as_object().unwrap().iter().next().unwrap();
        let key = text(&request["key"]);
        if kind != "request_range" {
            assert!(!written.contains(&key), "duplicate key given in txn request");
            written.push(key.clone());
        }
        let header = json!({"revision": revision.to_string()});
        match kind.as_str() {
            "request_range" => match self.keys.get(&key) {
                Some(kv) => json!({"response_range":
                    {"header": header, "kvs": [kv.json(&key)], "count": "1"}}),
                None => json!({"response_range": {"header": header}}),
            },
            "request_put" => {
                let before = self.keys.get(&key).cloned();
                let kv = KeyValue {
                    value: text(&request["value"]),
                    created: before.as_ref().map_or(revision, |kv| kv.created),
                    modified: revision,
                    version: before.as_ref().map_or(1, |kv| kv.version + 1),
                };
                self.keys.insert(key.clone(), kv);
                match before.filter(|_| request["prev_kv"] == json!(true)) {
                    Some(before) => json!({"response_put":
                        {"header": header, "prev_kv": before.json(&key)}}),
                    None => json!({"response_put": {"header": header}}),
                }
            }
            "request_delete_range" => match self.keys.remove(&key) {
                Some(_) => json!({"response_delete_range": {"header": header, "deleted": "1"}}),
                None => json!({"response_delete_range": {"header": header}}),
            },
            other => panic!("no such operation: {other}"),
        }
    }
}

impl KeyValue {
    fn json(&self, key: &str) -> Json {
        json!({"key": BASE64.encode(key), "create_revision": self.created.to_string(),
            "mod_revision": self.modified.to_string(), "version": self.version.to_string(),
            "value": BASE64.encode(&self.value)})
    }
}

fn header(revision: u64) -> Json {
    json!({"cluster_id": "14841639068965178418", "member_id": "10276657743932975437",
        "revision": revision.to_string(), "raft_term": "2"})
}

fn text(base64: &Json) -> String {
    String::from_utf8(BASE64.decode(base64.as_str().unwrap()).unwrap()).unwrap()
}

/// A store that many states of the world share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct StoreId(u32);

/// Stores, and what was asked of them before: what is the same in many states is done once.
#[derive(Default)]
struct Stores {
    all: Vec<Store>,
    known: HashMap<Store, StoreId>,
    asked: HashMap<(StoreId, Ask), (StoreId, Answer)>,
}

thread_local! {
    static STORES: RefCell<Stores> = RefCell::default();
}

pub(super) const TIMER: &str = "a";

/// Forgets all stores, for another rule to be broken; answers an empty one.
pub(super) fn empty() -> StoreId {
    STORES.with_borrow_mut(|stores| {
        *stores = Stores::default();
        stores.id(Store::default())
    })
}

/// Asks a store about the timer: what becomes of the store, and the answer.
pub(super) fn ask(store: StoreId, ask: &Ask) -> (StoreId, Answer) {
    let key = (store, ask.clone());
    if let Some(known) = STORES.with_borrow(|stores| stores.asked.get(&key).cloned()) {
        return known;
    }
    let mut changed = STORES.with_borrow(|stores| stores.all[store.0 as usize].clone());
    let engine = Etcd::new("/nginx-timer/", "prod");
    let body = broken_rules::body(ask, engine.request(TIMER, ask).body);
    let response = changed.transaction(&body);
    let answer = engine.decode(ask, Response { status: 200, body: response.as_bytes() }).answer;
    assert!(matches!(answer, Answer::Applied(_) | Answer::Seen(_)), "{ask:?}: {response}");
    STORES.with_borrow_mut(|stores| {
        let told = (stores.id(changed), answer);
        stores.asked.insert(key, told.clone());
        told
    })
}

/// The same store without these keys of the timer.
pub(super) fn without(store: StoreId, keys: &[&str]) -> StoreId {
    STORES.with_borrow_mut(|stores| {
        let mut changed = stores.all[store.0 as usize].clone();
        changed.revision += 1;
        changed.keys.retain(|key, _| !keys.iter().any(|of| key.ends_with(&format!("/{of}"))));
        stores.id(changed)
    })
}

impl Stores {
    fn id(&mut self, store: Store) -> StoreId {
        if let Some(id) = self.known.get(&store) {
            return *id;
        }
        let id = StoreId(u32::try_from(self.all.len()).unwrap());
        self.all.push(store.clone());
        self.known.insert(store, id);
        id
    }
}
