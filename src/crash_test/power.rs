//! The test of real power: a load whose acknowledgements a witness keeps, and the check after the machine came back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::acks::{self, Ack};
use super::error::CrashTestError;
use super::finding::Findings;
use super::fleet::{Fleet, client};
use super::load::{Fate, Load, Source};
use super::preflight::Preflight;
use super::report::{CrashReport, Grade};
use super::schedule::Dice;
use super::whole::{check_whole, probe_end};
use super::wire::{self, Answer, MAX_ACKS, Question, VERSION};
use crate::types::{Federation, FederationId};

/// How long the witness may take for anything.
const WITNESS_LIMIT: Duration = Duration::from_secs(10);
/// How often a load says at least something to the witness, and looks after its replicas.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What a witness keeps of a federation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) acks: u64,
    pub(crate) begun: u64,
    pub(crate) ended: u64,
}

/// A connection to a witness.
struct Contact {
    address: String,
    input: BufReader<OwnedReadHalf>,
    output: OwnedWriteHalf,
}

impl Contact {
    async fn open(address: &str, federation: FederationId) -> Result<(Self, Kept), CrashTestError> {
        let problem = |problem: String| CrashTestError::Witness { address: address.to_owned(), problem };
        let connecting = timeout(WITNESS_LIMIT, TcpStream::connect(address)).await;
        let stream = connecting.map_err(|_| problem("no connection in time".into()))?.map_err(|e| problem(e.to_string()))?;
        let (input, output) = stream.into_split();
        let mut contact = Self { address: address.to_owned(), input: BufReader::new(input), output };
        let kept = contact.tell(&Question::Hello { version: VERSION, federation }).await?;
        Ok((contact, kept))
    }

    async fn ask(&mut self, question: &Question) -> Result<Answer, CrashTestError> {
        let exchange = async {
            wire::write(&mut self.output, question).await?;
            wire::read::<Answer>(&mut self.input).await
        };
        let answered = timeout(WITNESS_LIMIT, exchange).await;
        let problem = match answered {
            Ok(Ok(Some(Answer::Refused { reason }))) => reason,
            Ok(Ok(Some(answer))) => return Ok(answer),
            Ok(Ok(None)) => "it hung up".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", WITNESS_LIMIT.as_secs()),
        };
        Err(CrashTestError::Witness { address: self.address.clone(), problem })
    }

    async fn tell(&mut self, question: &Question) -> Result<Kept, CrashTestError> {
        match self.ask(question).await? {
            Answer::Kept { acks, begun, ended } => Ok(Kept { acks, begun, ended }),
            _ => Err(CrashTestError::Witness { address: self.address.clone(), problem: "another answer than what it keeps".into() }),
        }
    }

    async fn list(&mut self) -> Result<Vec<Ack>, CrashTestError> {
        let mut all = Vec::new();
        loop {
            match self.ask(&Question::List { from: all.len() as u64 }).await? {
                Answer::Acks { acks, more } if !acks.is_empty() || !more => {
                    all.extend(acks);
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(CrashTestError::Witness { address: self.address.clone(), problem: "a list that does not go on".into() }),
            }
        }
    }
}

/// A load under which somebody is going to pull the plug.
pub(crate) struct PowerLoad {
    pub(crate) dir: PathBuf,
    pub(crate) federation: Arc<Federation>,
    pub(crate) witness: String,
}

impl PowerLoad {
    /// Runs until `until` is done; `progress` is told how much the witness keeps. Gives what it kept of this load in the end.
    ///
    /// `run` tells this load's ids from those of others in the same log.
    pub(crate) async fn run(&self, run: String, until: impl Future<Output = ()>, progress: impl Fn(u64)) -> Result<u64, CrashTestError> {
        let (mut contact, before) = Contact::open(&self.witness, self.federation.id()).await?;
        let (mut fleet, mut findings) = (Fleet::new(&self.dir, self.federation.size()), Findings::default());
        let everyone: Vec<usize> = (0..fleet.size()).collect();
        fleet.start(&everyone, &mut findings).await?;
        contact.tell(&Question::Begin).await?;
        let (fates_in, mut fates) = mpsc::unbounded_channel();
        let source = Arc::new(Source::new(run));
        let load = Load::start(&client(&self.dir)?, &source, before.acks, &fates_in);
        tokio::pin!(until);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut some = Vec::new();
        loop {
            tokio::select! {
                () = &mut until => break,
                _ = fates.recv_many(&mut some, MAX_ACKS / 8) => progress(keep(&mut contact, &mut some).await?.acks - before.acks),
                _ = heartbeat.tick() => {
                    contact.tell(&Question::Keep { acks: Vec::new() }).await?;
                    fleet.all_run()?;
                }
            }
        }
        load.finish().await;
        drop(fates_in);
        while fates.recv_many(&mut some, MAX_ACKS / 8).await > 0 {
            keep(&mut contact, &mut some).await?;
        }
        fleet.stop().await?;
        Ok(contact.tell(&Question::End).await?.acks - before.acks)
    }
}

/// Has the witness keep what was acknowledged: at most eight updates a submission, so these fit a line.
async fn keep(contact: &mut Contact, fates: &mut Vec<Fate>) -> Result<Kept, CrashTestError> {
    let acked = fates.drain(..).flat_map(|fate| match fate {
        Fate::Acked(acks) => acks,
        Fate::Unknown(why) | Fate::Refused(why) => {
            tracing::warn!(why, "a submission was not acknowledged");
            Vec::new()
        }
    });
    let acks = acked.collect();
    contact.tell(&Question::Keep { acks }).await
}

/// The check after a power cut.
pub(crate) struct PowerCheck {
    pub(crate) dir: PathBuf,
    pub(crate) federation: Arc<Federation>,
    pub(crate) witness: String,
    pub(crate) preflight: Preflight,
}

impl PowerCheck {
    /// Starts the federation again and checks everything against what the witness kept. On a loss the acknowledgements are written beside the data.
    pub(crate) async fn run(&self, run: String) -> CrashReport {
        let mut fleet = Fleet::new(&self.dir, self.federation.size());
        let mut report = CrashReport::new(Grade::Power, fleet.size(), self.preflight.clone());
        let mut findings = Findings::default();
        if let Err(error) = self.check(run, &mut fleet, &mut report, &mut findings).await {
            report.reason = Some(error.to_string());
        }
        report.conclude(&fleet.starts, &findings);
        report.kept = Some(self.dir.clone());
        report
    }

    async fn check(&self, run: String, fleet: &mut Fleet, report: &mut CrashReport, findings: &mut Findings) -> Result<(), CrashTestError> {
        let (mut contact, kept) = Contact::open(&self.witness, self.federation.id()).await?;
        let acked = contact.list().await?;
        report.acked = acked.len() as u64;
        acks::write(&self.acks(), &acked).map_err(CrashTestError::io(self.acks()))?;
        let everyone: Vec<usize> = (0..fleet.size()).collect();
        fleet.start(&everyone, findings).await?;
        let (target, _) = probe_end(&self.dir, &Source::new(run), &mut Dice::new(kept.acks)).await?;
        report.recovered = check_whole(&self.dir, &self.federation, fleet, target, &acked, findings).await?;
        report.full_check = true;
        report.cycles = kept.begun.saturating_sub(kept.ended);
        if report.cycles == 0 {
            return Err(CrashTestError::NoCut { begun: kept.begun });
        }
        Ok(())
    }

    fn acks(&self) -> PathBuf {
        self.dir.join("acks.jsonl")
    }
}

/// Whether a directory holds a federation that an earlier load made.
pub(crate) fn holds_federation(dir: &Path) -> bool {
    dir.join("federation.toml").exists()
}
