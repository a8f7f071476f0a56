//! The witness: keeps acknowledgements on a machine that nobody pulls the plug of, one append-only file per federation.
//!
//! What it answers for is on its disk. It believes what it is told about a federation, by anyone who reaches its port: a stranger can make a test
//! fail, and cannot make a loss look clean. It may not know replicas, logs or proofs.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::acks::Ack;
use super::error::CrashTestError;
use super::wire::{self, Answer, MAX_ACKS, Question, VERSION};
use crate::types::FederationId;

/// How long a connection may be silent; a load says something every second.
const SILENCE: Duration = Duration::from_secs(60);
/// How many connections are served at a time.
const CONNECTIONS: usize = 16;

/// One line of a federation's file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Entry {
    Begun,
    Ack(Ack),
    Ended,
}

/// What is kept of one federation.
struct Book {
    file: File,
    path: PathBuf,
    acks: Vec<Ack>,
    begun: u64,
    ended: u64,
    /// After a failed write or sync nothing is known of the file any more.
    failed: bool,
}

impl Book {
    fn open(path: &Path) -> io::Result<Self> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        // A line without its end was never answered for.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.set_len(whole as u64)?;
        file.sync_all()?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        let mut book = Self { file, path: path.to_path_buf(), acks: Vec::new(), begun: 0, ended: 0, failed: false };
        for (number, line) in bytes.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let entry = serde_json::from_slice(line);
            let bad = |error: serde_json::Error| io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {error}", number + 1));
            book.count(entry.map_err(bad)?);
        }
        Ok(book)
    }

    fn count(&mut self, entry: Entry) {
        match entry {
            Entry::Begun => self.begun += 1,
            Entry::Ack(ack) => self.acks.push(ack),
            Entry::Ended => self.ended += 1,
        }
    }

    /// Appends, syncs, and only then counts.
    fn append(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other(format!("{}: an earlier write failed; start the witness anew", self.path.display())));
        }
        let mut lines = Vec::new();
        for entry in &entries {
            serde_json::to_writer(&mut lines, entry)?;
            lines.push(b'\n');
        }
        let written = self.file.write_all(&lines).and_then(|()| self.file.sync_data());
        self.failed = written.is_err();
        written?;
        entries.into_iter().for_each(|entry| self.count(entry));
        Ok(())
    }

    fn kept(&self) -> Answer {
        Answer::Kept { acks: self.acks.len() as u64, begun: self.begun, ended: self.ended }
    }

    fn answer(&mut self, question: Question) -> io::Result<Answer> {
        match question {
            Question::Hello { .. } => {}
            Question::Begin => self.append(vec![Entry::Begun])?,
            Question::End => self.append(vec![Entry::Ended])?,
            Question::Keep { acks } if acks.len() > MAX_ACKS => {
                return Ok(Answer::Refused { reason: format!("{} acknowledgements at once, at most {MAX_ACKS} are taken", acks.len()) });
            }
            Question::Keep { acks } if acks.is_empty() => {}
            Question::Keep { acks } => {
                if let Some(error) = acks.iter().find_map(|ack| ack.update_id.check().err()) {
                    return Ok(Answer::Refused { reason: error.to_string() });
                }
                self.append(acks.into_iter().map(Entry::Ack).collect())?;
            }
            Question::List { from } => {
                let rest = usize::try_from(from).ok().and_then(|from| self.acks.get(from..)).unwrap_or_default();
                let acks: Vec<Ack> = rest.iter().take(MAX_ACKS).cloned().collect();
                return Ok(Answer::Acks { more: rest.len() > acks.len(), acks });
            }
        }
        Ok(self.kept())
    }
}

type Books = Arc<Mutex<HashMap<FederationId, Arc<Mutex<Book>>>>>;

/// The witness, listening.
pub(crate) struct Witness {
    listener: TcpListener,
    dir: PathBuf,
    books: Books,
}

impl Witness {
    /// Listens; keeps its files in `dir`, and begins with what is there.
    pub(crate) async fn bind(address: &str, dir: &Path) -> Result<Self, CrashTestError> {
        fs::create_dir_all(dir).map_err(CrashTestError::io(dir))?;
        let refused = |error: io::Error| CrashTestError::Witness { address: address.to_owned(), problem: error.to_string() };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        Ok(Self { listener, dir: dir.to_path_buf(), books: Books::default() })
    }

    /// Where it really listens.
    pub(crate) fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is dropped.
    pub(crate) async fn serve(self) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, for one: whoever waits is served once another connection ends.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (dir, books) = (self.dir.clone(), self.books.clone());
            tokio::spawn(async move {
                if let Err(error) = attend(stream, &dir, &books).await {
                    tracing::warn!(%peer, %error, "a connection ended");
                }
                drop(place);
            });
        }
    }
}

/// One connection.
async fn attend(stream: TcpStream, dir: &Path, books: &Books) -> io::Result<()> {
    let (input, mut output) = stream.into_split();
    let mut input = BufReader::new(input);
    let mut book: Option<Arc<Mutex<Book>>> = None;
    loop {
        let read = tokio::time::timeout(SILENCE, wire::read::<Question>(&mut input)).await;
        let question = match read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? {
            Ok(Some(question)) => question,
            Ok(None) => return Ok(()),
            Err(error) => {
                wire::write(&mut output, &Answer::Refused { reason: error.to_string() }).await?;
                return Err(error);
            }
        };
        let answer = tokio::task::block_in_place(|| consider(question, dir, books, &mut book));
        let answer = answer.unwrap_or_else(|error| Answer::Refused { reason: error.to_string() });
        wire::write(&mut output, &answer).await?;
        if let Answer::Refused { reason } = answer {
            return Err(io::Error::other(reason));
        }
    }
}

fn consider(question: Question, dir: &Path, books: &Books, book: &mut Option<Arc<Mutex<Book>>>) -> io::Result<Answer> {
    let refused = |reason: String| Ok(Answer::Refused { reason });
    let known = match (&question, book.as_ref()) {
        (Question::Hello { version, .. }, _) if *version != VERSION => {
            return refused(format!("protocol version {version}, this witness speaks {VERSION}"));
        }
        (Question::Hello { federation, .. }, None) => {
            // The name is a digest's hex digits, whatever was sent.
            let path = dir.join(format!("{federation}.jsonl"));
            let mut books = books.lock();
            let opened = match books.get(federation) {
                Some(opened) => opened.clone(),
                None => Arc::new(Mutex::new(Book::open(&path)?)),
            };
            books.insert(*federation, opened.clone());
            book.insert(opened).clone()
        }
        (Question::Hello { .. }, Some(_)) => return refused("a second hello".into()),
        (_, None) => return refused("no hello before the first question".into()),
        (_, Some(known)) => known.clone(),
    };
    known.lock().answer(question)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::crypto::Digest;
    use crate::types::UpdateId;

    fn ack(sequence: u64) -> Ack {
        Ack { sequence, update_id: UpdateId(format!("u-{sequence}")), leaf: Digest([1; 32]), slot: 1, header: Digest([2; 32]) }
    }

    #[test]
    fn what_was_answered_for_is_there_again_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("book.jsonl");
        let mut book = Book::open(&path).unwrap();
        book.answer(Question::Begin).unwrap();
        let kept = book.answer(Question::Keep { acks: (1..=600).map(ack).take(MAX_ACKS).collect() }).unwrap();
        assert_eq!(kept, Answer::Kept { acks: 512, begun: 1, ended: 0 });
        book.answer(Question::Keep { acks: vec![ack(900)] }).unwrap();
        drop(book);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"ack\":{\"sequence\":901"].concat()).unwrap();
        let mut book = Book::open(&path).unwrap();
        assert_eq!(book.kept(), Answer::Kept { acks: 513, begun: 1, ended: 0 });
        assert_eq!(fs::read(&path).unwrap(), whole);
        let Answer::Acks { acks, more } = book.answer(Question::List { from: 0 }).unwrap() else { panic!("no list") };
        assert_eq!((acks.len(), more), (512, true));
        assert_eq!(book.answer(Question::List { from: 512 }).unwrap(), Answer::Acks { acks: vec![ack(900)], more: false });
        assert_eq!(book.answer(Question::List { from: u64::MAX }).unwrap(), Answer::Acks { acks: vec![], more: false });
        assert_eq!(book.answer(Question::End).unwrap(), Answer::Kept { acks: 513, begun: 1, ended: 1 });
    }

    #[test]
    fn too_much_at_once_and_bad_ids_are_refused_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Book::open(&dir.path().join("book.jsonl")).unwrap();
        let many = Question::Keep { acks: (0..=MAX_ACKS as u64).map(ack).collect() };
        assert!(matches!(book.answer(many).unwrap(), Answer::Refused { .. }));
        let nameless = Question::Keep { acks: vec![Ack { update_id: UpdateId(String::new()), ..ack(1) }] };
        assert!(matches!(book.answer(nameless).unwrap(), Answer::Refused { .. }));
        assert_eq!(book.kept(), Answer::Kept { acks: 0, begun: 0, ended: 0 });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stranger_to_the_protocol_is_told_so_and_hung_up_on() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let dir = tempfile::tempdir().unwrap();
        let witness = Witness::bind("127.0.0.1:0", dir.path()).await.unwrap();
        let address = witness.address().unwrap();
        tokio::spawn(witness.serve());
        let hello = format!("{{\"hello\":{{\"version\":2,\"federation\":\"{}\"}}}}\n", Digest::ZERO);
        for (said, answer) in [("GET / HTTP/1.1\r\n", "expected value"), ("{\"list\":{\"from\":0}}\n", "no hello"), (&hello, "version 2")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let mut told = String::new();
            stream.read_to_string(&mut told).await.unwrap();
            assert!(told.starts_with("{\"refused\"") && told.contains(answer), "{said:?}: {told}");
        }
    }
}
