//! `exofed submit`: JSON lines in, one line per update out, many in flight.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{ClientArgs, Problem, Verdict, print_json, print_line};
use crate::api::SignedSubmission;
use crate::client::{Client, Outcome};
use crate::types::{StateUpdate, UpdateId};

/// The longest line read: a payload of 32 MiB in base64.
const MAX_LINE_BYTES: usize = 48 << 20;

/// Submit updates and wait for their proofs.
///
/// Reads JSON lines: {"update_id": TEXT, "data": TEXT or "data_base64": BASE64, "timestamp": MS}; id and timestamp may be left out. Prints one line
/// per update, in the order of the input, once its fate is known and, if committed, its proof was verified. Exit code 0 only if all are committed.
#[derive(clap::Args)]
pub(crate) struct Submit {
    #[command(flatten)]
    client: ClientArgs,
    /// The file to read, or - for standard input.
    #[arg(default_value = "-")]
    input: PathBuf,
    /// Print one JSON document a line.
    #[arg(long)]
    json: bool,
    /// Submit nothing: print the signed submissions, one JSON document a line, for POST /v1/submissions of any replica's HTTP interface.
    #[arg(long)]
    sign_only: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    update_id: Option<String>,
    data: Option<String>,
    data_base64: Option<String>,
    timestamp: Option<u64>,
}

/// What became of one update.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Fate {
    pub(crate) update_id: Option<String>,
    pub(crate) sequence: Option<u64>,
    pub(crate) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

impl Submit {
    pub(crate) async fn run(self) -> Verdict {
        let client = Arc::new(self.client.client()?);
        let mut lines = open(&self.input).await?;
        if self.sign_only {
            return sign_only(&client, &mut lines).await;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} updates answered, {per_sec}") {
            bar.set_style(style);
        }
        let mut pipeline = Pipeline::new(client);
        let mut all_committed = true;
        let mut show = |fate: Fate| {
            bar.inc(1);
            all_committed &= fate.status == "committed";
            if self.json {
                return print_json(&fate);
            }
            let sequence = fate.sequence.map_or_else(|| "-".to_owned(), |s| s.to_string());
            let reason = fate.reason.map_or_else(String::new, |r| format!("\t{r}"));
            print_line(&format!("{}\t{sequence}\t{}{reason}", fate.update_id.unwrap_or_default(), fate.status))
        };
        let mut batch = Vec::new();
        while lines.recv_many(&mut batch, pipeline.updates_per_submission()).await > 0 {
            for fate in pipeline.push(std::mem::take(&mut batch)).await? {
                show(fate)?;
            }
        }
        for fate in pipeline.drain().await? {
            show(fate)?;
        }
        bar.finish_and_clear();
        Ok(all_committed)
    }
}

/// Signs every update and prints the submissions; a bad line ends it.
async fn sign_only(client: &Client, lines: &mut mpsc::Receiver<Parsed>) -> Verdict {
    let parameters = client.federation().parameters();
    let together = usize::try_from(client.options().updates_per_submission.min(parameters.max_submission_updates)).unwrap_or(1);
    let mut batch = Vec::new();
    while lines.recv_many(&mut batch, together).await > 0 {
        for group in groups(std::mem::take(&mut batch), parameters.max_batch_bytes / 4) {
            let updates = group.map_err(|(_, reason)| Problem(reason))?;
            print_json(&SignedSubmission::new(client.federation().id(), &client.sign(updates)))?;
        }
    }
    Ok(true)
}

/// A line of the input: an update, or why it is none.
pub(crate) type Parsed = Result<StateUpdate, BadLine>;

/// The id that a bad line gave, if any, and what is wrong with it.
pub(crate) type BadLine = (Option<String>, String);

/// Reads and parses lines in the background, a bounded number ahead.
pub(crate) async fn open(path: &Path) -> Result<mpsc::Receiver<Parsed>, Problem> {
    let (lines_in, lines) = mpsc::channel(4_096);
    let input: Box<dyn AsyncRead + Send + Unpin> = if path == Path::new("-") {
        Box::new(tokio::io::stdin())
    } else {
        Box::new(tokio::fs::File::open(path).await.map_err(|e| Problem(format!("{}: {e}", path.display())))?)
    };
    tokio::spawn(read_lines(BufReader::new(input), lines_in));
    Ok(lines)
}

async fn read_lines(mut input: BufReader<Box<dyn AsyncRead + Send + Unpin>>, lines: mpsc::Sender<Parsed>) {
    let mut text = Vec::new();
    for number in 1u64.. {
        text.clear();
        let parsed = match read_line(&mut input, &mut text).await {
            Ok(false) => return,
            Ok(true) if text.iter().all(u8::is_ascii_whitespace) => continue,
            Ok(true) => parse(&text).map_err(|(id, reason)| (id, format!("line {number}: {reason}"))),
            Err(error) => {
                let _ = lines.send(Err((None, format!("line {number}: {error}")))).await;
                return;
            }
        };
        if lines.send(parsed).await.is_err() {
            return;
        }
    }
}

/// Reads up to a newline; says whether there was anything.
async fn read_line(input: &mut BufReader<Box<dyn AsyncRead + Send + Unpin>>, text: &mut Vec<u8>) -> std::io::Result<bool> {
    loop {
        let available = input.fill_buf().await?;
        if available.is_empty() {
            return Ok(!text.is_empty());
        }
        let end = available.iter().position(|b| *b == b'\n');
        let take = end.map_or(available.len(), |at| at + 1);
        text.extend_from_slice(available.get(..take).unwrap_or_default());
        input.consume(take);
        if text.len() > MAX_LINE_BYTES {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, format!("longer than {MAX_LINE_BYTES} bytes")));
        }
        if end.is_some() {
            return Ok(true);
        }
    }
}

fn parse(text: &[u8]) -> Parsed {
    let line: Line = serde_json::from_slice(text).map_err(|e| (None, e.to_string()))?;
    let refused = |reason: String| Err((line.update_id.clone(), reason));
    let data = match (&line.data, &line.data_base64) {
        (Some(text), None) => text.clone().into_bytes(),
        (None, Some(base64)) => match BASE64.decode(base64.as_bytes()) {
            Ok(data) => data,
            Err(error) => return refused(format!("data_base64: {error}")),
        },
        _ => return refused("give either \"data\" (text) or \"data_base64\"".into()),
    };
    let update_id = match &line.update_id {
        Some(id) => UpdateId(id.clone()),
        None => Client::new_id().map_err(|e| (None, e.to_string()))?,
    };
    if let Err(error) = update_id.check() {
        let shown: String = update_id.0.chars().take(32).collect();
        return Err((Some(shown), error.to_string()));
    }
    Ok(StateUpdate { update_id, data, timestamp: line.timestamp.unwrap_or_else(wall_clock) })
}

fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Submissions in flight; fates come out in the order the updates went in.
pub(crate) struct Pipeline {
    client: Arc<Client>,
    in_flight: VecDeque<JoinHandle<Vec<Fate>>>,
}

impl Pipeline {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { client, in_flight: VecDeque::new() }
    }

    pub(crate) fn updates_per_submission(&self) -> usize {
        let agreed = self.client.federation().parameters().max_submission_updates;
        usize::try_from(self.client.options().updates_per_submission.min(agreed)).unwrap_or(1)
    }

    /// Submits lines, waiting for the oldest submission when enough are in flight; gives the fates that are known by now.
    pub(crate) async fn push(&mut self, lines: Vec<Parsed>) -> Result<Vec<Fate>, Problem> {
        for group in groups(lines, self.client.federation().parameters().max_batch_bytes / 4) {
            let client = self.client.clone();
            self.in_flight.push_back(match group {
                Ok(updates) => tokio::spawn(async move { submit(&client, updates).await }),
                Err((update_id, reason)) => {
                    let fate = Fate { update_id, sequence: None, status: "rejected", reason: Some(reason) };
                    tokio::spawn(async move { vec![fate] })
                }
            });
        }
        let limit = usize::try_from(self.client.options().in_flight).unwrap_or(1);
        let mut fates = Vec::new();
        while self.in_flight.len() > limit || self.in_flight.front().is_some_and(JoinHandle::is_finished) {
            let Some(oldest) = self.in_flight.pop_front() else { break };
            fates.extend(oldest.await?);
        }
        Ok(fates)
    }

    /// Waits for everything in flight.
    pub(crate) async fn drain(&mut self) -> Result<Vec<Fate>, Problem> {
        let mut fates = Vec::new();
        while let Some(oldest) = self.in_flight.pop_front() {
            fates.extend(oldest.await?);
        }
        Ok(fates)
    }
}

/// Splits lines into submissions: no id twice in one, not too many bytes in one, bad lines by themselves.
fn groups(lines: Vec<Parsed>, max_bytes: u64) -> Vec<Result<Vec<StateUpdate>, BadLine>> {
    let (mut groups, mut current, mut ids, mut bytes) = (Vec::new(), Vec::new(), BTreeSet::new(), 0);
    for line in lines {
        let size = line.as_ref().map_or(0, |u| u.data.len() as u64 + 512);
        let apart = line.as_ref().map_or(true, |u| ids.contains(&u.update_id)) || bytes + size > max_bytes;
        if apart && !current.is_empty() {
            groups.push(Ok(std::mem::take(&mut current)));
            ids.clear();
            bytes = 0;
        }
        match line {
            Ok(update) => {
                ids.insert(update.update_id.clone());
                bytes += size;
                current.push(update);
            }
            Err(bad) => groups.push(Err(bad)),
        }
    }
    if !current.is_empty() {
        groups.push(Ok(current));
    }
    groups
}

/// Submits updates together. If they are refused together, each is tried alone, so that one bad update costs the others nothing.
async fn submit(client: &Client, updates: Vec<StateUpdate>) -> Vec<Fate> {
    let outcome = client.submit(client.sign(updates.clone())).await;
    if updates.len() > 1 && matches!(outcome, Outcome::Conflict(_) | Outcome::Rejected(_)) {
        let mut fates = Vec::with_capacity(updates.len());
        for update in updates {
            let outcome = client.submit(client.sign(vec![update.clone()])).await;
            fates.extend(fates_of(&[update], outcome));
        }
        return fates;
    }
    fates_of(&updates, outcome)
}

fn fates_of(updates: &[StateUpdate], outcome: Outcome) -> Vec<Fate> {
    let each = |status: &'static str, reason: Option<String>| {
        let fate = |u: &StateUpdate| Fate { update_id: Some(u.update_id.0.clone()), sequence: None, status, reason: reason.clone() };
        updates.iter().map(fate).collect()
    };
    match outcome {
        Outcome::Committed(proofs) => {
            let fate = |proof: &crate::proof::CommitProof| Fate {
                update_id: Some(proof.leaf.update_id.0.clone()),
                sequence: Some(proof.leaf.sequence),
                status: "committed",
                reason: None,
            };
            proofs.iter().map(fate).collect()
        }
        Outcome::Conflict(_) => each("conflict", Some("this id is committed with another payload".into())),
        Outcome::Expired => each("expired", None),
        Outcome::Rejected(reason) => each("rejected", Some(reason)),
        Outcome::Unknown(why) => each("unknown", Some(format!("{why}; ask with: exofed proof UPDATE_ID"))),
    }
}
