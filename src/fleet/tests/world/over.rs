//! What the promises say in the end.

use super::super::etcd;
use super::super::host::Host;
use super::super::oracle::{Broken, Promise};
use super::super::record::Category;
use super::super::signed;
use super::{Config, World};
use crate::fleet::engine::{Answer, Ask};

impl World {
    /// Whether all is over.
    pub(in crate::fleet::tests) fn is_over(&self, config: &Config) -> bool {
        signed(self.now) >= config.last_due() + 3 * signed(config.ttl_ms)
    }

    /// What the promises say when all is over.
    pub(in crate::fleet::tests) fn end(&mut self, config: &Config) -> Option<Broken> {
        let Answer::Seen(view) = etcd::ask(self.store, &Ask::Read).1 else { return None };
        let last = config.last_due();
        if !self.oracle.paused && !self.oracle.has_started(last) {
            self.oracle.breaks(Promise::NeverSilent, "the due time in calm has not started");
        }
        if view.run.is_some_and(|run| !self.hosts.iter().any(|host| host.has(run.value.claim))) {
            self.oracle.breaks(Promise::Ghost, "a run stands there for ever");
        }
        for due in config.dues.iter().copied() {
            let of_host = |host: &Host| {
                let found = host.record.accounted.iter().find(|(of, _)| *of == due);
                found.map(|(_, category)| *category)
            };
            let categories: Vec<_> = self.hosts.iter().map(of_host).collect();
            let all_elsewhere = categories.iter().all(|of| *of == Some(Category::Elsewhere));
            let has_come = |host: usize| due <= signed(self.now) + config.skew[host];
            let is_open = |(host, of): (usize, &Option<Category>)| of.is_none() && has_come(host);
            if categories.iter().enumerate().any(is_open) {
                let what = format!("{due} is not accounted for: {categories:?}");
                self.oracle.breaks(Promise::Account, what);
            } else if all_elsewhere && !self.oracle.has_started(due) && !self.oracle.removed {
                self.oracle.breaks(Promise::Account, format!("{due} is nobody's"));
            }
        }
        self.oracle.broken().cloned()
    }
}
