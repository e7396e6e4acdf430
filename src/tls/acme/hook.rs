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

use crate::inherited;

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
    let mut child =
        command(program, [verb, name, value]).spawn().map_err(|error| format!("{shown} cannot be run: {error}"))?;
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

fn command(program: &Path, arguments: [&str; 3]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    // The sockets are ours, and not for it.
    inherited::VARIABLES.iter().for_each(|variable| _ = command.env_remove(variable));
    command
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program of shell, with a directory to write into as `$DIR`.
    fn program(dir: &Path, text: &str) -> std::path::PathBuf {
        let path = dir.join("hook");
        fs::write(&path, format!("#!/bin/sh\nDIR={}\n{text}\n", dir.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[test]
    fn it_is_not_told_of_our_sockets() {
        let command = command(Path::new("hook"), ["add", "a", "b"]);
        let removed: Vec<_> = command.as_std().get_envs().filter(|(_, value)| value.is_none()).collect();
        assert_eq!(removed.len(), 3, "{removed:?}");
    }

    #[tokio::test]
    async fn it_is_given_verb_name_and_value_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let hook = program(dir.path(), "printf '%s|' \"$@\" > $DIR/told; cat >> $DIR/told");
        run(&hook, "add", "_acme-challenge.a.test", "v a$(lue);\"'").await.unwrap();
        let told = fs::read_to_string(dir.path().join("told")).unwrap();
        assert_eq!(told, "add|_acme-challenge.a.test|v a$(lue);\"'|");
    }

    #[tokio::test]
    async fn what_fails_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let hook = program(dir.path(), "echo no such zone >&2; exit 3");
        let why = run(&hook, "add", "n", "v").await.unwrap_err();
        assert!(why.contains("exit status: 3") && why.ends_with(": no such zone"), "{why}");
        let why = run(&dir.path().join("none"), "add", "n", "v").await.unwrap_err();
        assert!(why.contains("cannot be run"), "{why}");
    }

    #[tokio::test]
    async fn much_said_and_children_left_hold_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let hook = program(dir.path(), "head -c 300000 /dev/zero | tr '\\0' x >&2; exit 1");
        let why = run(&hook, "add", "n", "v").await.unwrap_err();
        assert!(why.len() < 3000, "{}", why.len());
        // Something that was left running holds the pipe.
        let hook = program(dir.path(), "sleep 20 & echo $! > $DIR/pid");
        tokio::time::timeout(Duration::from_secs(10), run(&hook, "add", "n", "v")).await.expect("at once").unwrap();
        let pid: i32 = fs::read_to_string(dir.path().join("pid")).unwrap().trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}
