//! `exofed token`: who may use a replica's HTTP interface.

use std::path::PathBuf;

use comfy_table::{Table, presets};
use serde_json::json;

use super::{Problem, Verdict, print_json, print_line};
use crate::api::{Scope, TokenFile};
use crate::config::HttpConfig;

/// Make, list and revoke the bearer tokens of a replica's HTTP interface.
///
/// The file that `tokens` under [http] names keeps only their hashes. A running replica reads changes at once.
#[derive(clap::Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it, this once.
    Add(Add),
    /// List the tokens by name.
    List(List),
    /// Forget a token: it is refused from the next request on.
    Revoke(Revoke),
}

/// Make a token and print it, this once.
#[derive(clap::Args)]
pub(crate) struct Add {
    /// A name for people, which the replica counts its requests under.
    name: String,
    /// What it permits: read, submit, admin (everything); several with commas.
    #[arg(long, value_delimiter = ',', default_value = "read,submit")]
    scope: Vec<Scope>,
    #[command(flatten)]
    replica: ReplicaArgs,
}

/// List the tokens by name.
#[derive(clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    replica: ReplicaArgs,
}

/// Forget a token: it is refused from the next request on.
#[derive(clap::Args)]
pub(crate) struct Revoke {
    /// Its name.
    name: String,
    #[command(flatten)]
    replica: ReplicaArgs,
}

#[derive(clap::Args)]
struct ReplicaArgs {
    /// The replica's configuration (replica.toml).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Token {
    pub(crate) fn run(self) -> Verdict {
        match self {
            Self::Add(add) => add.run(),
            Self::List(list) => list.run(),
            Self::Revoke(revoke) => revoke.run(),
        }
    }
}

impl Add {
    fn run(mut self) -> Verdict {
        self.scope.sort_unstable();
        self.scope.dedup();
        let path = HttpConfig::tokens_file(&self.replica.config)?;
        let token = TokenFile::add(&path, &self.name, &self.scope)?;
        if self.replica.json {
            print_json(&json!({ "name": self.name, "scopes": self.scope, "token": token }))?;
        } else {
            print_line(&token)?;
            eprintln!("this is the only time that the token is shown; {} keeps its hash", path.display());
        }
        Ok(true)
    }
}

impl List {
    fn run(self) -> Verdict {
        let file = TokenFile::load(&HttpConfig::tokens_file(&self.replica.config)?)?;
        if self.replica.json {
            let tokens: Vec<_> = file.token.iter().map(|t| json!({ "name": t.name, "scopes": t.scopes, "created": t.created })).collect();
            print_json(&json!({ "tokens": tokens }))?;
            return Ok(true);
        }
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["name", "scopes", "created"]);
        for token in &file.token {
            let scopes: Vec<String> = token.scopes.iter().map(ToString::to_string).collect();
            table.add_row([token.name.clone(), scopes.join(", "), token.created.clone()]);
        }
        print_line(&table.to_string())?;
        Ok(true)
    }
}

impl Revoke {
    fn run(self) -> Verdict {
        TokenFile::revoke(&HttpConfig::tokens_file(&self.replica.config)?, &self.name)?;
        if self.replica.json {
            print_json(&json!({ "revoked": self.name }))?;
        } else {
            eprintln!("revoked {}", self.name);
        }
        Ok::<bool, Problem>(true)
    }
}
