//! The HTTP interface of one replica: submitting, reading, following, proofs, status and metrics.
//!
//! It holds nothing but a [`Handle`](crate::node::Handle): what it reads comes from the log, on blocking threads, and what it submits goes the way of
//! every submission. It never touches the core's thread, and no client can make it hold more than its limits allow. `docs/http-api.md` is the
//! reference; `guard` is what every request passes first.

mod auth;
mod error;
mod extract;
mod fates;
mod forms;
mod gateway;
mod guard;
mod log;
mod metrics;
mod openapi;
mod problem;
mod proofs;
mod respond;
mod server;
mod stall;
mod state;
mod status;
mod stream;
mod tls;
mod tokens;
mod updates;

pub use error::ApiError;
pub use forms::{FormError, SignedSubmission, SignedUpdate};
pub use server::ApiServer;
pub use tokens::{Scope, Token, TokenError, TokenFile};
