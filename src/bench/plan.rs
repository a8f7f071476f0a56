//! What a load consists of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How fast updates are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// So many updates a second, whatever becomes of those before: an open loop.
    PerSecond(u64),
    /// As fast as answers come, with so many submissions in flight as the plan allows: a closed loop.
    Max,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerSecond(rate) => write!(f, "{rate}"),
            Self::Max => f.write_str("max"),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "max" => Ok(Self::Max),
            text => match text.parse() {
                Ok(rate) if (1..=10_000_000).contains(&rate) => Ok(Self::PerSecond(rate)),
                _ => Err("give updates per second, 1 to 10000000, or max".into()),
            },
        }
    }
}

/// A load: what the generator is told, and what a report repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadPlan {
    /// Payload bytes of an update.
    pub size: u64,
    /// Updates that are signed together.
    pub submission: u64,
    /// How fast.
    pub rate: Rate,
    /// Clients, each an author with a key and connections of its own.
    pub clients: u16,
    /// Submissions that one client has in flight at most.
    pub in_flight: u16,
    /// How long is measured, s.
    pub seconds: u64,
    /// How long the load runs before, s.
    pub warmup: u64,
}

/// The file of a client's configuration in a benchmark's directory.
#[must_use]
pub fn client_file(client: u16) -> String {
    format!("client-{client}.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written() {
        for rate in [Rate::Max, Rate::PerSecond(1), Rate::PerSecond(16_000)] {
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        for refused in ["", "0", "-1", "fast", "10000001", "1.5"] {
            assert!(refused.parse::<Rate>().is_err(), "{refused}");
        }
    }
}
