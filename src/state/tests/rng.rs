//! Random numbers that come from a seed, for the simulator.

/// Random numbers from a seed: `SplitMix64`, <https://prng.di.unimi.it/splitmix64.c>.
pub(in crate::state) struct Rng(pub(in crate::state) u64);

impl Rng {
    pub(in crate::state) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(in crate::state) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(in crate::state) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    pub(in crate::state) fn ms(&mut self, bound: i64) -> i64 {
        i64::try_from(self.below(bound.unsigned_abs().max(1))).unwrap()
    }
}
