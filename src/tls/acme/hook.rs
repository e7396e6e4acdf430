//! The operator's program that puts records into the DNS (dns-01).
//!
//! Called as `PROGRAM add NAME VALUE` and, once the CA has looked, `PROGRAM remove NAME VALUE`. NAME is the record's full
//! name without a dot at its end (`_acme-challenge.example.org`), VALUE the text of a TXT record. Status 0 means done, and
//! after `add` that the record can be seen. Other records of that name must stay: an order for `example.org` and one for
//! `*.example.org` have the same name.

use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::timeout;

/// For one run.
const LIMIT: Duration = Duration::from_secs(120);
/// For what it says to arrive once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What is kept of its stderr for the log.
const TOLD: u64 = 2048;

/// Runs the program.
///
/// # Errors
/// It could not be run, did not end, or says that it failed; in words.
pub(super) async fn run(program: &Path, verb: &str, name: &str, value: &str) -> Result<(), String> {
    let shown = program.display();
    let mut command = Command::new(program);
    command.args([verb, name, value]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().map_err(|error| format!("{shown} cannot be run: {error}"))?;
    let mut told = pin!(beginning(child.stderr.take()));
    let ended = async {
        tokio::select! {
            told = &mut told => (child.wait().await, told),
            // Something it left running may hold the pipe.
            status = child.wait() => (status, timeout(LAST_WORDS, &mut told).await.unwrap_or_default()),
        }
    };
    match timeout(LIMIT, ended).await {
        Ok((Ok(status), _)) if status.success() => Ok(()),
        Ok((Ok(status), told)) => Err(format!("{shown} {verb} {name}: {status}{told}")),
        Ok((Err(error), _)) => Err(format!("{shown} {verb} {name}: {error}")),
        Err(_) => Err(format!("{shown} {verb} {name}: not done after {} s, ended", LIMIT.as_secs())),
    }
}

/// The beginning of what it says; the rest is read and dropped, so that a full pipe does not hold it up.
async fn beginning(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let Some(stderr) = stderr else { return String::new() };
    let (mut told, mut stderr) = (Vec::new(), stderr.take(TOLD));
    let _ = stderr.read_to_end(&mut told).await; // what cannot be read is not told
    let _ = tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await;
    match String::from_utf8_lossy(&told).trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}
