//! How many files and sockets this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limits; none is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// What holds now.
    pub now: Option<u64>,
    /// How far the process may raise it by itself.
    pub at_most: Option<u64>,
}

/// The limits as they are.
pub fn limits() -> OpenFiles {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    OpenFiles {
        now: current,
        at_most: maximum,
    }
}

/// Raises the limit as far as the process may, and gives what holds then.
pub fn raise() -> Option<u64> {
    let OpenFiles { now, at_most } = limits();
    let raised = Rlimit {
        current: at_most,
        maximum: at_most,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => at_most,
        Err(_) => now,
    }
}
