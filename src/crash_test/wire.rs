//! What a test and its witness say to each other: one JSON document a line, one answer to each question, every line limited.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::acks::Ack;
use crate::types::FederationId;

/// The version of this protocol.
pub(crate) const VERSION: u32 = 1;
/// The longest line.
pub(crate) const MAX_LINE: usize = 1 << 20;
/// The most acknowledgements in one line: with ids of the greatest length they fit it.
pub(crate) const MAX_ACKS: usize = 512;

/// What a test says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Question {
    /// The first line of a connection: which federation it is about.
    Hello { version: u32, federation: FederationId },
    /// A load begins.
    Begin,
    /// Keep these; answered once they are on disk.
    Keep { acks: Vec<Ack> },
    /// The load ends in order: no power was cut.
    End,
    /// Which acknowledgements are kept, from the `from`-th (0 is the first).
    List { from: u64 },
}

/// What the witness answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Answer {
    /// What is kept of this federation: acknowledgements, and how many loads began and ended in order.
    Kept { acks: u64, begun: u64, ended: u64 },
    /// Some of them; fewer than there are if `more`.
    Acks { acks: Vec<Ack>, more: bool },
    /// A sentence for a person; the witness closes the connection.
    Refused { reason: String },
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

/// Reads one line; `None` at the end.
pub(crate) async fn read<T: DeserializeOwned>(input: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    input.take(MAX_LINE as u64).read_until(b'\n', &mut line).await?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => serde_json::from_slice(&line).map(Some).map_err(|error| invalid(error.to_string())),
        Some(_) if line.len() == MAX_LINE => Err(invalid(format!("a line of more than {MAX_LINE} bytes"))),
        Some(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}

/// Writes one line.
pub(crate) async fn write(output: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    output.write_all(&line).await?;
    output.flush().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::Digest;
    use crate::types::UpdateId;

    #[tokio::test]
    async fn the_longest_lines_fit_and_longer_ones_and_torn_ones_are_refused() {
        let id = UpdateId("\u{1}".repeat(256));
        let ack = Ack { sequence: u64::MAX, update_id: id, leaf: Digest([255; 32]), slot: u64::MAX, header: Digest([255; 32]) };
        let question = Question::Keep { acks: vec![ack; MAX_ACKS] };
        let mut line = Vec::new();
        write(&mut line, &question).await.unwrap();
        assert!(line.len() <= MAX_LINE, "{}", line.len());
        assert_eq!(read::<Question>(&mut &line[..]).await.unwrap(), Some(question));
        let torn = read::<Question>(&mut &line[..line.len() - 1]).await.unwrap_err();
        assert_eq!(torn.kind(), io::ErrorKind::UnexpectedEof);
        let long = vec![b' '; MAX_LINE + 1];
        assert!(read::<Question>(&mut &long[..]).await.unwrap_err().to_string().contains("more than"));
        assert_eq!(read::<Question>(&mut &b""[..]).await.unwrap(), None);
        assert!(read::<Question>(&mut &b"{\"keep\":{\"acks\":[],\"x\":1}}\n"[..]).await.is_err());
    }
}
