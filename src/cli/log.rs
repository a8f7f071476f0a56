//! `exofed log`: entries, verified before they are shown.

use std::time::Duration;

use data_encoding::BASE64;
use serde_json::json;

use super::{ClientArgs, Verdict, print_json, print_line};
use crate::node::LogEntry;

/// Show committed entries; every batch is verified against the genesis before it is shown.
#[derive(clap::Args)]
pub(crate) struct Log {
    #[command(flatten)]
    client: ClientArgs,
    /// The first sequence number.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// The last sequence number; the end of the log if not given.
    #[arg(long)]
    to: Option<u64>,
    /// Go on as the log grows.
    #[arg(long)]
    follow: bool,
    /// Print one JSON document a line.
    #[arg(long)]
    json: bool,
}

impl Log {
    pub(crate) async fn run(self) -> Verdict {
        let client = self.client.client()?;
        let last = self.to.unwrap_or(u64::MAX);
        let mut next = self.from.max(1);
        while next <= last {
            let wait = if self.follow { Duration::from_secs(5) } else { Duration::ZERO };
            let range = client.read(next, 4 << 20, wait).await?;
            if range.batches.is_empty() && !self.follow {
                break;
            }
            let wanted = next..=last;
            for entry in range.batches.iter().flat_map(LogEntry::of_batch).filter(|e| wanted.contains(&e.sequence)) {
                self.show(&entry)?;
                next = entry.sequence + 1;
            }
        }
        let complete = self.to.is_none_or(|to| next > to);
        if !complete {
            eprintln!("exofed: the log ends at {}", next - 1);
        }
        Ok(complete)
    }

    fn show(&self, entry: &LogEntry) -> Result<(), super::Problem> {
        let update = &entry.update;
        if self.json {
            return print_json(&json!({
                "sequence": entry.sequence, "slot": entry.slot, "update_id": update.update_id, "author": entry.author,
                "timestamp": update.timestamp, "committed_at": entry.committed_at, "data_base64": BASE64.encode(&update.data),
            }));
        }
        let data = String::from_utf8(update.data.clone()).ok().filter(|s| !s.chars().any(char::is_control));
        let data = data.unwrap_or_else(|| format!("base64:{}", BASE64.encode(&update.data)));
        print_line(&format!("{}\t{}\t{}\t{data}", entry.sequence, entry.slot, update.update_id))
    }
}
