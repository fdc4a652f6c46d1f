//! A sample as CRI writes it.

use clone8s::cri;

use super::Sample;
use crate::stats::some;

impl Sample {
    /// `rate` in CPU nanoseconds a second, where one is known.
    pub(in crate::stats) fn cpu_usage(&self, at: i64, rate: Option<u64>) -> cri::CpuUsage {
        cri::CpuUsage {
            timestamp: at,
            usage_core_nano_seconds: some(self.cpu.total),
            usage_nano_cores: rate.and_then(some),
            psi: self.pressure.cpu,
        }
    }

    pub(in crate::stats) fn memory_usage(&self, at: i64) -> cri::MemoryUsage {
        let memory = &self.memory;
        let working_set = memory.working_set();
        cri::MemoryUsage {
            timestamp: at,
            working_set_bytes: some(working_set),
            available_bytes: memory
                .limit
                .and_then(|limit| some(limit.saturating_sub(working_set))),
            usage_bytes: some(memory.used),
            rss_bytes: some(memory.rss),
            page_faults: some(memory.faults),
            major_page_faults: some(memory.major_faults),
            psi: self.pressure.memory,
        }
    }

    pub(in crate::stats) fn swap_usage(&self, at: i64) -> cri::SwapUsage {
        let memory = &self.memory;
        cri::SwapUsage {
            timestamp: at,
            swap_available_bytes: memory
                .swap_limit
                .and_then(|limit| some(limit.saturating_sub(memory.swap))),
            swap_usage_bytes: some(memory.swap),
        }
    }

    /// None where the kernel keeps no pressure, which is all that CRI has here.
    pub(in crate::stats) fn io_usage(&self, at: i64) -> Option<cri::IoUsage> {
        self.pressure.io.map(|psi| cri::IoUsage {
            timestamp: at,
            psi: Some(psi),
        })
    }

    pub(in crate::stats) fn process_usage(&self, at: i64) -> cri::ProcessUsage {
        cri::ProcessUsage {
            timestamp: at,
            // Threads too: what the kernel counts against the limit, and what kubelets compare with it.
            process_count: some(self.threads),
        }
    }
}
