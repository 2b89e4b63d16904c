//! What the operating system says of this process, by the names that all Prometheus clients use.

use std::fmt;

use procfs::{ProcResult, process::Process};
use producers::metrics::{
    Collector, ConstCounter, ConstGauge, DescriptorEncoder, EncodeMetric, MetricType,
};

use crate::files;

/// Looked at when it is asked for.
#[derive(Debug)]
pub struct ProcessMetrics;

/// What is looked at.
struct Look {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    open_fds: f64,
    max_fds: f64,
    threads: f64,
    started_at: f64,
}

impl Look {
    fn now() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
        Ok(Self {
            cpu_seconds: seconds(stat.utime + stat.stime),
            resident_bytes: stat.rss as f64 * procfs::page_size() as f64,
            virtual_bytes: stat.vsize as f64,
            open_fds: process.fd_count()? as f64,
            max_fds: files::limits().now.map_or(f64::INFINITY, |max| max as f64),
            threads: stat.num_threads as f64,
            started_at: procfs::boot_time_secs()? as f64 + seconds(stat.starttime),
        })
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Where there is no /proc, there is nothing to tell.
        let Ok(look) = Look::now() else {
            return Ok(());
        };
        let name = "process_cpu_seconds";
        let help = "Time on a processor, in user and system mode.";
        let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(look.cpu_seconds).encode(counter)?;
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory in use.",
                look.resident_bytes,
            ),
            (
                "process_virtual_memory_bytes",
                "Memory that is mapped.",
                look.virtual_bytes,
            ),
            ("process_open_fds", "Open files and sockets.", look.open_fds),
            (
                "process_max_fds",
                "The most files and sockets that may be open.",
                look.max_fds,
            ),
            ("process_threads", "Threads.", look.threads),
            (
                "process_start_time_seconds",
                "When it started, since 1970-01-01T00:00:00Z.",
                look.started_at,
            ),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        Ok(())
    }
}
