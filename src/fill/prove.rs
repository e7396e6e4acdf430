//! The proof that the NAR *inside* a body is the one its narinfo claims: decompressed, read as a NAR, hashed (R7, R29).
//!
//! Bytes are handed to a thread of its own, through a short queue; the thread decodes, and stops at the first thing that
//! is wrong: more than NarSize, a NAR that breaks Nix's rules, another hash. What it finds are facts about the bytes; it
//! is the caller who holds them against claims and keeps them in the manifest.
//!
//! Bounds: [`MEMORY`] for each decoder and one piece in the queue; how many run at once depends on the [`Pace`]. The
//! runtime's threads never decode, and what is proven in the background is proven at the lowest priority.
//!
//! Out of scope: what follows from a claim that does not hold (see [`Judge`](super::Judge)).

use std::io::{BufRead, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::state::Broken;
use super::{Claim, FillFailure};
use crate::decompress;
use crate::metrics::Refusal;

use crate::nix::hash::Hasher;
use crate::nix::nar;
use crate::nix::narinfo::{Compression, ContentCheck};
use crate::store::Inside;

/// The most memory one decoder may want: an xz dictionary or a zstd window of 128 MiB, and what goes with it.
const MEMORY: u64 = 160 << 20;
/// Bytes decoded at a time.
const PIECE: usize = 64 * 1024;

/// How urgent a proof is, and what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Nobody waits: lowest priority.
    Background,
    /// A response waits, and all bytes are at hand.
    AtOnce,
    /// A response waits, and the bytes come as their upstream sends them; each upstream has turns of its own (see
    /// [`crate::upstream::Upstream::turn_to_unpack`]).
    AsItComes,
}

/// Where proofs are made.
#[derive(Debug, Clone)]
pub(super) struct Prover {
    background: Arc<Semaphore>,
    at_once: Arc<Semaphore>,
    as_it_comes: Arc<Semaphore>,
}

/// Proofs at the upstreams' pace at a time: they mostly wait.
const AS_IT_COMES: usize = 32;

impl Default for Prover {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            background: Arc::new(Semaphore::new((cores / 2).max(1))),
            at_once: Arc::new(Semaphore::new(cores)),
            as_it_comes: Arc::new(Semaphore::new(AS_IT_COMES)),
        }
    }
}

impl Prover {
    /// Begins a proof of `claim` for a body of this compression, as soon as a place is free.
    pub(super) async fn begin(&self, compression: Compression, claim: &Arc<Claim>, pace: Pace) -> Proving {
        let permits = match pace {
            Pace::Background => &self.background,
            Pace::AtOnce => &self.at_once,
            Pace::AsItComes => &self.as_it_comes,
        };
        // Never closed.
        let permit = Arc::clone(permits).acquire_owned().await.ok();
        let (sender, receiver) = mpsc::channel(1);
        let (tell, told) = oneshot::channel();
        let claim = Arc::clone(claim);
        let proof = move || prove_and_tell(compression, &claim, pace, receiver, tell, permit);
        let spawned = std::thread::Builder::new().name("snowbank-prove".to_owned()).spawn(proof);
        if let Err(error) = spawned {
            tracing::error!("no thread for a proof of a NAR: {error}");
        }
        Proving { sender: Some(sender), told }
    }
}

/// A proof being made. Dropped before its end, it is given up.
pub(super) struct Proving {
    sender: Option<mpsc::Sender<Queued>>,
    told: oneshot::Receiver<Result<Inside, Disproof>>,
}

/// The next bytes, or the end. Without an end the proof was given up.
enum Queued {
    Bytes(Bytes),
    End,
}

impl Proving {
    /// Hands over the next bytes of the body; false when the proof has ended already, which is to say failed.
    pub(super) async fn feed(&mut self, bytes: Bytes) -> bool {
        match &self.sender {
            Some(sender) => sender.send(Queued::Bytes(bytes)).await.is_ok(),
            None => false,
        }
    }

    /// All bytes were handed over: what is inside.
    ///
    /// # Errors
    /// The body is not what was claimed.
    pub(super) async fn finish(mut self) -> Result<Inside, Disproof> {
        if let Some(sender) = self.sender.take() {
            // Nobody there any more has told already.
            let _ = sender.send(Queued::End).await;
        }
        match self.told.await {
            Ok(told) => told,
            Err(_died) => Err(Disproof::internal()),
        }
    }
}

/// Why a body is not the NAR it is claimed to be.
#[derive(Debug, Clone)]
pub(super) struct Disproof {
    /// `None`: nothing is known about the body, the proof itself failed.
    pub(super) reason: Option<Refusal>,
    pub(super) text: String,
}

impl Disproof {
    fn new(reason: Refusal, text: impl Into<String>) -> Self {
        Self { reason: Some(reason), text: text.into() }
    }

    /// The body was proven before, to be another NAR than is claimed now.
    pub(super) fn known_otherwise(claim: &Claim) -> Self {
        let text = format!("its NAR is known to be another one than NarHash {} says", claim.nar_hash);
        Self::new(Refusal::WrongNarHash, text)
    }

    pub(super) fn internal() -> Self {
        Self { reason: None, text: "the proof of its NarHash died; the log says why".to_owned() }
    }

    /// The same of bytes that were in the store already.
    pub(super) fn of_what_is_kept(&self) -> Broken {
        match self.reason {
            Some(reason) => Broken::refused(reason, self.text.clone()),
            None => Broken::new(FillFailure::Internal, self.text.clone()),
        }
    }

    /// As the failure of a fill, or of whoever waits for the proof, of bytes that came from `upstream`.
    pub(super) fn broken(&self, upstream: &str) -> Broken {
        let text = format!("upstream {upstream}: {}", self.text);
        match self.reason {
            Some(reason) => Broken::refused(reason, text),
            None => Broken::new(FillFailure::Internal, text),
        }
    }
}

fn prove_and_tell(
    compression: Compression,
    claim: &Claim,
    pace: Pace,
    receiver: mpsc::Receiver<Queued>,
    tell: oneshot::Sender<Result<Inside, Disproof>>,
    permit: Option<OwnedSemaphorePermit>,
) {
    if pace == Pace::Background {
        // Of this thread alone (Linux); refused or not, the proof goes on.
        let _ = rustix::process::setpriority_process(None, 19);
    }
    let proof = prove(compression, claim, Queue::new(receiver, claim.nar_size), || tell.is_closed());
    let _ = tell.send(proof);
    drop(permit);
}

/// Decodes `body` to its end and compares what is inside with `claim`.
fn prove(
    compression: Compression,
    claim: &Claim,
    body: impl BufRead,
    given_up: impl Fn() -> bool,
) -> Result<Inside, Disproof> {
    let undecodable =
        |error: String| Disproof::new(Refusal::Undecodable, format!("its NAR cannot be decompressed: {error}"));
    let mut decoder = decompress::reader(compression, body, MEMORY).map_err(|error| undecodable(error.to_string()))?;
    let (mut hasher, mut reader) = (Hasher::new(), nar::Reader::new());
    let mut check = claim.content_check();
    let mut piece = vec![0; PIECE];
    let mut size = 0_u64;
    loop {
        let read = match decoder.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => &piece[..read],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(undecodable(error.to_string())),
        };
        if given_up() {
            return Err(Disproof::internal());
        }
        size += read.len() as u64;
        if size > claim.nar_size {
            let text = format!("what is in its NAR is longer than NarSize {}", claim.nar_size);
            return Err(Disproof::new(Refusal::WrongNarSize, text));
        }
        reader.update(read).map_err(|error| bad_nar(&error))?;
        hasher.update(read);
        if let Some(check) = &mut check {
            check.update(read);
        }
    }
    let found = hasher.finish();
    if found != claim.nar_hash {
        let text = format!("its NAR has the hash {found} instead of NarHash {}", claim.nar_hash);
        return Err(Disproof::new(Refusal::WrongNarHash, text));
    }
    if size != claim.nar_size {
        let text = format!("its NAR has {size} bytes instead of NarSize {}", claim.nar_size);
        return Err(Disproof::new(Refusal::WrongNarSize, text));
    }
    reader.finish().map_err(|error| bad_nar(&error))?;
    let addressed = check.map(ContentCheck::finish);
    if addressed == Some(false) {
        return Err(Disproof::new(Refusal::WrongAddress, "its NAR does not have the content address that CA gives"));
    }
    Ok(Inside { nar_hash: *found.as_bytes(), nar_size: size, addressed: addressed.unwrap_or_default() })
}

fn bad_nar(error: &nar::Error) -> Disproof {
    if let nar::Error::Depth { .. } = error {
        return Disproof::new(
            Refusal::TooDeep,
            format!("what is inside is a NAR that Nix refuses since 2026: {error}"),
        );
    }
    Disproof::new(Refusal::BadNar, format!("what is inside is no NAR that Nix unpacks: {error}"))
}

/// The processor time that a proof may take: so much at the least, and a second for each mebibyte of the body and of the
/// NAR. The slowest decoder (bzip2) takes a tenth of it; what takes longer was made to (R27).
const LEAST_TIME: Duration = Duration::from_secs(5);

/// The queue as a reader, which ends the work when it takes too long.
struct Queue {
    receiver: mpsc::Receiver<Queued>,
    now: Bytes,
    ended: bool,
    /// Processor time of this thread at the beginning, and what may be added to it.
    began: Duration,
    allowed: Duration,
}

impl Queue {
    fn new(receiver: mpsc::Receiver<Queued>, nar_size: u64) -> Self {
        let allowed = LEAST_TIME + Duration::from_secs(nar_size >> 20);
        Self { receiver, now: Bytes::new(), ended: false, began: processor_time(), allowed }
    }
}

/// What this thread has had of the processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl BufRead for Queue {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if processor_time().saturating_sub(self.began) > self.allowed {
            return Err(std::io::Error::other("it takes far longer than a NAR of its size"));
        }
        while self.now.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Queued::Bytes(bytes)) => {
                    self.allowed += Duration::from_secs_f64(bytes.len() as f64 / f64::from(1 << 20));
                    self.now = bytes;
                }
                Some(Queued::End) => self.ended = true,
                None => return Err(std::io::Error::other("given up")),
            }
        }
        Ok(&self.now)
    }

    fn consume(&mut self, amount: usize) {
        self.now.advance(amount);
    }
}

impl Read for Queue {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let from = self.fill_buf()?;
        let len = from.len().min(into.len());
        into[..len].copy_from_slice(&from[..len]);
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod time {
    use super::*;

    #[test]
    fn r27_what_takes_too_long_is_given_up() {
        let (sender, receiver) = mpsc::channel(1);
        sender.blocking_send(Queued::Bytes(Bytes::from_static(b"abc"))).unwrap();
        let mut queue = Queue { allowed: Duration::from_millis(20), ..Queue::new(receiver, 1 << 20) };
        // Some bytes pay for some time, the rest is gone sooner or later.
        let mut input = vec![0; 3];
        queue.read_exact(&mut input).unwrap();
        while processor_time().saturating_sub(queue.began) <= Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        assert!(queue.fill_buf().unwrap_err().to_string().contains("takes far longer"));
    }
}
