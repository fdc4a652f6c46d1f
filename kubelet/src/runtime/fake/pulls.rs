//! Pulls under way in the runtime in memory.

use tokio::time::Instant;

use super::FakeRuntime;
use crate::runtime::PullProgress;

/// A pull that counts as under way until this is dropped.
pub(super) struct Pulling<'a> {
    runtime: &'a FakeRuntime,
    number: u32,
}

impl FakeRuntime {
    pub(super) fn begin_pull(&self, image: &str) -> Pulling<'_> {
        let mut state = self.state();
        state.serial += 1;
        let number = state.serial;
        state.pulls.insert(number, (image.to_owned(), Instant::now()));
        Pulling {
            runtime: self,
            number,
        }
    }

    /// The images that are being pulled, in the order in which their pulls began.
    pub fn pulling(&self) -> Vec<String> {
        let state = self.state();
        state.pulls.values().map(|(image, _)| image.clone()).collect()
    }

    /// Here an image has one layer, which comes at an even pace.
    pub(super) fn progress_of(&self, image: &str) -> Option<PullProgress> {
        let state = self.state();
        let behavior = state.registry.get(image)?;
        let (_, began) = state.pulls.values().find(|(of, _)| of == image)?;
        let come = began.elapsed().as_millis() * u128::from(behavior.size);
        let bytes = come / behavior.pull_time.as_millis().max(1);
        Some(PullProgress {
            bytes: u64::try_from(bytes).map_or(behavior.size, |bytes| bytes.min(behavior.size)),
            bytes_total: behavior.size,
            layers_unpacked: 0,
            layers_total: 1,
        })
    }
}

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        self.runtime.state().pulls.remove(&self.number);
    }
}
