//! `exofed init`: a federation on one machine, ready to run.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Problem, Verdict, print_json, print_line};
use crate::config::{ClientFile, ClientOptions, FederationFile, HttpOptions, ReplicaFile, write_secret};
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
    /// The first replica's HTTP port (TCP, on loopback), the others follow; 80 above its UDP port, or a free one, if not given.
    #[arg(long)]
    http_base_port: Option<u16>,
    /// Give every replica the author's key, so that HTTP clients with a token of scope submit need no key of their own.
    #[arg(long)]
    gateway: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Init {
    pub(crate) fn run(self) -> Verdict {
        let network = Network { host: self.host.clone(), base_port: self.base_port, http_base_port: self.http_base_port, gateway: self.gateway };
        let made = make_federation(&self.dir, self.replicas, &network, Parameters::default())?;
        if self.json {
            let each = made.addresses.iter().zip(&made.http);
            let replicas: Vec<_> = each.map(|((peer, address), http)| json!({ "peer": peer, "address": address, "http": http })).collect();
            print_json(&json!({ "federation_id": made.federation.id(), "replicas": replicas }))?;
        } else {
            print_line(&format!("federation {}", made.federation.id()))?;
            for ((peer, address), http) in made.addresses.iter().zip(&made.http) {
                print_line(&format!("  {peer}  {address}  {http}"))?;
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
    /// Each replica's HTTP interface, as a URL.
    pub(crate) http: Vec<String>,
}

/// Where a federation's replicas listen.
pub(crate) struct Network {
    /// The host in every replica's address.
    pub(crate) host: String,
    /// The first UDP port; 0 takes free ones.
    pub(crate) base_port: u16,
    /// The first HTTP port, on loopback; if it is not given, it follows from `base_port`.
    pub(crate) http_base_port: Option<u16>,
    /// Whether HTTP clients may have their updates signed by the author's key.
    pub(crate) gateway: bool,
}

impl Network {
    /// Everything on this machine's loopback.
    pub(crate) fn loopback(base_port: u16) -> Self {
        Self { host: "127.0.0.1".into(), base_port, http_base_port: None, gateway: false }
    }

    /// Each replica's HTTP address.
    fn http_ports(&self, replicas: u16) -> Result<Vec<u16>, Problem> {
        let derived = if self.base_port == 0 { Some(0) } else { self.base_port.checked_add(HTTP_ABOVE_UDP) };
        let base = self.http_base_port.or(derived).unwrap_or(0);
        if base != 0 {
            return consecutive("--http-base-port", base, replicas);
        }
        let held = (0..replicas).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<Vec<_>, _>>()?;
        held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
    }
}

/// A replica's HTTP port is so far above its UDP port, unless told otherwise.
const HTTP_ABOVE_UDP: u16 = 80;

/// Makes a federation.
pub(crate) fn make_federation(dir: &Path, replicas: u16, network: &Network, parameters: Parameters) -> Result<Made, Problem> {
    make_federation_for(dir, replicas, network, parameters, vec![])
}

/// Makes a federation with authors beside the one whose key is written.
pub(crate) fn make_federation_for(
    dir: &Path,
    replicas: u16,
    network: &Network,
    parameters: Parameters,
    others: Vec<Author>,
) -> Result<Made, Problem> {
    let host = &network.host;
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
    let (ports, http_ports) = (ports(host, replicas, network.base_port)?, network.http_ports(replicas)?);
    let addresses: Vec<(PeerId, String)> =
        federation.members().iter().zip(&ports).map(|(m, port)| (m.peer.clone(), format!("{host}:{port}"))).collect();
    fs::create_dir_all(dir)?;
    let file = FederationFile { genesis, addresses: addresses.iter().map(|(p, a)| (p.0.clone(), a.clone())).collect() };
    for ((secret, (peer, address)), http_port) in secrets.iter().zip(&addresses).zip(&http_ports) {
        write_replica(dir, &federation, secret, peer, address, &http_table(*http_port, network.gateway))?;
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
    let http = http_ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    Ok(Made { federation, addresses, http })
}

/// The `[http]` table of a new replica's configuration.
fn http_table(port: u16, gateway: bool) -> String {
    let author = if gateway { "author_key = \"../author.key\"\n" } else { "" };
    format!("\n[http]\nlisten = \"127.0.0.1:{port}\"\n{author}")
}

fn write_replica(dir: &Path, federation: &Federation, secret: &ReplicaSecret, peer: &PeerId, address: &str, http: &str) -> Result<(), Problem> {
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
        http: HttpOptions::default(),
    };
    let data = DataDir(home.join("data"));
    fs::create_dir_all(&data.0)?;
    data.create(federation, secret.consensus_key().public(), &replica.journal)?;
    write_new(&home.join("replica.toml"), &(minimal(&toml::to_string_pretty(&replica)?) + http))
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
        return consecutive("--base-port", base_port, replicas);
    }
    let sockets = (0..replicas).map(|_| UdpSocket::bind((host, 0))).collect::<Result<Vec<_>, _>>()?;
    sockets.iter().map(|socket| Ok(socket.local_addr()?.port())).collect()
}

fn consecutive(argument: &str, base: u16, replicas: u16) -> Result<Vec<u16>, Problem> {
    let beyond = || Problem(format!("{argument} {base} leaves no room for {replicas} replicas below 65536"));
    (0..replicas).map(|k| base.checked_add(k)).collect::<Option<_>>().ok_or_else(beyond)
}
