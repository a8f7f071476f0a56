//! `exofed init`: a federation on one machine, ready to run.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Problem, Verdict, print_json, print_line};
use crate::config::{ClientFile, ClientOptions, FederationFile, ReplicaFile, write_secret};
use crate::crypto::{ReplicaSecret, SigningKey};
use crate::recovery::DataDir;
use crate::types::{Author, Federation, Genesis, Member, Parameters, PeerId};

/// Make a new federation: genesis, secrets, configurations and empty data directories.
///
/// Writes DIR/federation.toml (public: give it to auditors), DIR/replica-K/{replica.toml,secret.key,data}, DIR/client.toml and DIR/author.key.
/// Nothing is ever overwritten.
#[derive(clap::Args)]
pub(crate) struct Init {
    /// Where to write; must not hold a federation yet.
    dir: PathBuf,
    /// How many replicas; at least 4.
    #[arg(long, default_value_t = 4)]
    replicas: u16,
    /// The host in every replica's address.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The first replica's UDP port, the others follow; 0 takes free ports.
    #[arg(long, default_value_t = 7400)]
    base_port: u16,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Init {
    pub(crate) fn run(self) -> Verdict {
        let made = make_federation(&self.dir, self.replicas, &self.host, self.base_port, Parameters::default())?;
        if self.json {
            let replicas: Vec<_> = made.addresses.iter().map(|(peer, address)| json!({ "peer": peer, "address": address })).collect();
            print_json(&json!({ "federation_id": made.federation.id(), "replicas": replicas }))?;
        } else {
            print_line(&format!("federation {}", made.federation.id()))?;
            for (peer, address) in &made.addresses {
                print_line(&format!("  {peer}  {address}"))?;
            }
            let dir = self.dir.display();
            print_line(&format!("\nrun each replica:  exofed serve --config {dir}/replica-0/replica.toml"))?;
            print_line(&format!("submit updates:    exofed submit --config {dir}/client.toml updates.jsonl"))?;
        }
        Ok(true)
    }
}

/// A federation that was made.
pub(crate) struct Made {
    pub(crate) federation: Federation,
    pub(crate) addresses: Vec<(PeerId, String)>,
}

/// Makes a federation; `base_port` 0 takes free ports.
pub(crate) fn make_federation(dir: &Path, replicas: u16, host: &str, base_port: u16, parameters: Parameters) -> Result<Made, Problem> {
    make_federation_for(dir, replicas, host, base_port, parameters, vec![])
}

/// Makes a federation with authors beside the one whose key is written.
pub(crate) fn make_federation_for(
    dir: &Path,
    replicas: u16,
    host: &str,
    base_port: u16,
    parameters: Parameters,
    others: Vec<Author>,
) -> Result<Made, Problem> {
    for name in ["federation.toml", "client.toml", "author.key", "replica-0"] {
        if dir.join(name).exists() {
            return Err(Problem(format!("{} exists; nothing is overwritten, choose another directory", dir.join(name).display())));
        }
    }
    let secrets = (0..replicas).map(|_| ReplicaSecret::generate()).collect::<Result<Vec<_>, _>>()?;
    let author = SigningKey::generate()?;
    let member = |(index, secret): (usize, &ReplicaSecret)| Member {
        peer: PeerId(format!("replica-{index}")),
        consensus_key: secret.consensus_key().public(),
        transport_key: secret.transport_key().public(),
        cosignature_key: secret.cosignature_key().public(),
    };
    let genesis = Genesis {
        name: "federation".into(),
        members: secrets.iter().enumerate().map(member).collect(),
        authors: std::iter::once(Author { name: "author".into(), key: author.public() }).chain(others).collect(),
        readers: vec![],
        parameters,
    };
    let federation = Federation::new(genesis.clone())?;
    let ports = ports(host, replicas, base_port)?;
    let addresses: Vec<(PeerId, String)> =
        federation.members().iter().zip(&ports).map(|(m, port)| (m.peer.clone(), format!("{host}:{port}"))).collect();
    fs::create_dir_all(dir)?;
    let file = FederationFile { genesis, addresses: addresses.iter().map(|(p, a)| (p.0.clone(), a.clone())).collect() };
    for (secret, (peer, address)) in secrets.iter().zip(&addresses) {
        write_replica(dir, &federation, secret, peer, address)?;
    }
    write_secret(&dir.join("author.key"), &author.seed())?;
    let client = ClientFile {
        genesis: "federation.toml".into(),
        key: "author.key".into(),
        client: ClientOptions::default(),
        net: crate::net::NetOptions::default(),
    };
    write_new(&dir.join("client.toml"), &minimal(&toml::to_string_pretty(&client)?))?;
    let about = "# The federation's public genesis. Hashed into the federation's id, but for [addresses]: give this file to auditors.\n\n";
    write_new(&dir.join("federation.toml"), &format!("{about}{}", toml::to_string_pretty(&file)?))?;
    Ok(Made { federation, addresses })
}

fn write_replica(dir: &Path, federation: &Federation, secret: &ReplicaSecret, peer: &PeerId, address: &str) -> Result<(), Problem> {
    let home = dir.join(&peer.0);
    fs::create_dir_all(&home)?;
    write_secret(&home.join("secret.key"), secret.as_bytes())?;
    let replica = ReplicaFile {
        genesis: "../federation.toml".into(),
        peer: peer.clone(),
        secret: "secret.key".into(),
        data: "data".into(),
        listen: address.to_owned(),
        node: crate::node::NodeOptions::default(),
        consensus: crate::consensus::CoreOptions::default(),
        journal: crate::journal::JournalOptions::default(),
        store: crate::store::StoreOptions::default(),
        net: crate::net::NetOptions::default(),
    };
    let data = DataDir(home.join("data"));
    fs::create_dir_all(&data.0)?;
    data.create(federation, secret.consensus_key().public(), &replica.journal)?;
    write_new(&home.join("replica.toml"), &minimal(&toml::to_string_pretty(&replica)?))
}

/// Keeps what is particular to this file; every other key has its documented default.
fn minimal(toml: &str) -> String {
    let own: Vec<&str> = toml.lines().take_while(|line| !line.starts_with('[')).collect();
    format!("# Every other key and its default: config/default.toml\n{}\n", own.join("\n").trim_end())
}

fn write_new(path: &Path, text: &str) -> Result<(), Problem> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// Consecutive ports, or free ones: all are held open until every one is found, so that none is given twice.
fn ports(host: &str, replicas: u16, base_port: u16) -> Result<Vec<u16>, Problem> {
    if base_port != 0 {
        let beyond = || Problem(format!("--base-port {base_port} leaves no room for {replicas} replicas below 65536"));
        return (0..replicas).map(|k| base_port.checked_add(k)).collect::<Option<_>>().ok_or_else(beyond);
    }
    let sockets = (0..replicas).map(|_| UdpSocket::bind((host, 0))).collect::<Result<Vec<_>, _>>()?;
    sockets.iter().map(|socket| Ok(socket.local_addr()?.port())).collect()
}
