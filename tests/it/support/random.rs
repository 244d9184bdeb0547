//! Chance that is the same in each run.

use std::time::Duration;

/// Numbers that look random and are the same in each run.
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Returns a time below the limit.
    pub(crate) fn up_to(&mut self, limit: Duration) -> Duration {
        limit.mul_f64(f64::from(self.next()) / f64::from(u32::MAX))
    }

    /// Returns a number below the limit.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }

    fn next(&mut self) -> u32 {
        // Knuth's.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 32).expect("32 bits")
    }
}
