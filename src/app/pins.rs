//! What is kept through eviction: which pins there are, what they consist of, and that it is here.
//!
//! ```text
//! snowbank pin ─▶ fetched as by warm ─▶ Store::pin of each path ─▶ the list, on disk
//! start, a reload, an hour ─▶ every pin is looked through ─▶ what is not here is fetched again
//! blocks were reused ─▶ what is held is looked at (no reads) ─▶ if something is missing, the same
//! ```
//!
//! A pin keeps what would be served, and makes nothing so: paths that are not trusted any more lose their place, and get it
//! again when they are. What they consist of is found anew after each start, from the narinfos that were kept.
//!
//! Out of scope: how the disk keeps it (`store`), the commands (`pin`).

pub(super) mod list;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use self::list::Pin;
use super::fetching::{Tally, Wanted, fetch_by};
use super::status::document;
use crate::metrics::PinMetrics;
use crate::nix::store_path::{HashPart, StorePath};
use crate::proxy::Proxy;
use crate::proxy::fetch::Fetched;
use crate::proxy::held::Held;
use crate::store::{DiskUsage, Room, Store};

/// Everything is looked through so often, even if nothing seems to have happened.
const EVERY: Duration = Duration::from_secs(3600);
/// What could not be had is tried again after this.
const AGAIN: Duration = Duration::from_secs(60);
/// Between two looks while blocks are being reused.
const PAUSE: Duration = Duration::from_secs(1);

/// The pins of this server. A clone is the same.
#[derive(Clone)]
pub(super) struct Pins {
    inner: Arc<Inner>,
}

struct Inner {
    proxy: Proxy,
    store: Store,
    /// `None` without a disk: nothing can be pinned.
    room: Option<(PathBuf, Room)>,
    metrics: PinMetrics,
    state: Mutex<State>,
    /// Held while the list changes.
    changing: tokio::sync::Mutex<()>,
    look_again: Notify,
}

#[derive(Default)]
struct State {
    pins: Vec<Pin>,
    /// Roots that are being fetched to be pinned.
    coming: Vec<(HashPart, Wanted)>,
    /// What is here of the paths of all of them.
    held: HashMap<HashPart, Held>,
    /// What those refer to of which no more is here than the narinfo.
    lost: HashMap<HashPart, Vec<HashPart>>,
    /// Those of which something is missing.
    holed: HashSet<HashPart>,
    size: Room,
    /// Why the list cannot be changed.
    unreadable: Option<String>,
}

/// There is no room for more.
#[derive(Debug, Clone, Copy)]
struct Full;

impl Pins {
    /// Those in the list, of which nothing is looked at yet.
    ///
    /// Blocking: a small file.
    pub(super) fn read(proxy: Proxy, store: Store, dir: Option<PathBuf>, metrics: PinMetrics) -> Self {
        let room = dir.zip(store.most_pinned()).map(|(dir, most)| (dir.join(list::FILE), most));
        let mut state = State::default();
        if let Some((file, _)) = &room {
            match list::read(file) {
                Ok(pins) => state.pins = pins,
                Err(error) => {
                    let path = file.display();
                    tracing::error!(%path, %error, "the list of pins cannot be read: nothing is kept through eviction");
                    state.unreadable = Some(format!("{path}: {error}; mend or remove it, and restart the server"));
                }
            }
        }
        let (state, changing, look_again) = (Mutex::new(state), tokio::sync::Mutex::default(), Notify::new());
        let pins = Self { inner: Arc::new(Inner { proxy, store, room, metrics, state, changing, look_again }) };
        pins.settle();
        pins
    }

    /// Has what is here of them stay, while a command works on the store; nothing is fetched.
    pub(super) async fn hold_what_is_here(&self) {
        let one = async |hash| {
            let Some(held) = self.inner.proxy.held(hash).await else { return (hash, self.lost(hash).await) };
            let path = held.path.clone();
            let kept = self.hold(&mut self.lock(), hash, held);
            (hash, kept.map_or(Fetched::Missing, |()| Fetched::Here(path)))
        };
        let roots = self.lock().roots();
        for wanted in [Wanted::Closures, Wanted::Paths] {
            let roots = roots.iter().filter(|(_, of)| *of == wanted).map(|(root, _)| *root);
            fetch_by(one, roots, wanted, |_| {}).await;
        }
    }

    /// Nothing is here of a path but what its narinfo says, or not even that.
    async fn lost(&self, hash: HashPart) -> Fetched {
        let Some(path) = self.inner.proxy.known(hash).await else { return Fetched::Missing };
        self.lock().lost.insert(hash, path.references.clone());
        Fetched::Lost(path, "its NAR is not here".to_owned())
    }

    /// Another configuration is in force.
    pub(super) fn look_again(&self) {
        self.inner.look_again.notify_one();
    }

    /// Keeps what is pinned here, until it is dropped.
    pub(super) async fn keep(self) {
        self.inner.store.opened(EVERY).await;
        // First what is here: what is missing may take its time, or not come at all.
        self.hold_what_is_here().await;
        let mut turns = self.inner.store.turns();
        let (mut again, mut missing) = (AGAIN, 0);
        loop {
            turns.mark_unchanged();
            let whole = self.look_through().await;
            // Who does not have it now will hardly have it in a minute.
            let still = std::mem::replace(&mut missing, self.inner.metrics.missing.get()) == missing;
            again = if still { EVERY.min(again * 2) } else { AGAIN };
            let next = Instant::now() + if whole { EVERY } else { again };
            loop {
                tokio::select! {
                    () = sleep_until(next) => break,
                    () = self.inner.look_again.notified() => {
                        again = AGAIN / 2;
                        break;
                    }
                    // The sender is in the store. While something cannot be had, that is tried again in its time.
                    Ok(()) = turns.changed(), if whole => {
                        sleep(PAUSE).await;
                        turns.mark_unchanged();
                        if !self.is_held().await {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Has every path of every pin here. Tells whether it is.
    async fn look_through(&self) -> bool {
        let (closures, alone): (Vec<Pin>, Vec<Pin>) = self.lock().pins.clone().into_iter().partition(|pin| pin.closure);
        if closures.is_empty() && alone.is_empty() {
            return true;
        }
        if !self.has_disk() {
            return false;
        }
        let mut reasons = Vec::new();
        for (pins, wanted) in [(closures, Wanted::Closures), (alone, Wanted::Paths)] {
            let one = async |hash| (hash, self.have(hash).await.unwrap_or_else(|Full| Fetched::Failed(self.most())));
            let tally = fetch_by(one, pins.iter().map(Pin::hash), wanted, |_| {}).await;
            reasons.extend(tally.reasons);
        }
        let (before, now) = (self.inner.metrics.missing.get(), self.settle());
        if let Some(reason) = reasons.first().filter(|_| before != now) {
            tracing::warn!(paths = now, reason, "pinned paths are not here; they are tried to be fetched again");
        }
        reasons.is_empty()
    }

    /// Whether everything that was here is. Reads nothing.
    async fn is_held(&self) -> bool {
        let held: Vec<Held> = self.lock().held.values().cloned().collect();
        for held in &held {
            tokio::task::consume_budget().await;
            // Without a disk there is nothing to be done.
            if self.inner.store.is_held(&held.hold).await == Some(false) {
                return false;
            }
        }
        true
    }

    /// Has a path here, and has it stay.
    async fn have(&self, hash: HashPart) -> Result<Fetched, Full> {
        let fetched = match self.whole(hash).await {
            Some(held) => Fetched::Here(held.path),
            None => self.inner.proxy.fetch(hash).await,
        };
        let held = self.inner.proxy.held(hash).await;
        let failed = matches!(fetched, Fetched::Missing | Fetched::Lost(..) | Fetched::Failed(_));
        let mut state = self.lock();
        match (held, &fetched) {
            (Some(held), _) => self.hold(&mut state, hash, held)?,
            (None, Fetched::Lost(path, _)) => {
                state.held.remove(&hash);
                state.lost.insert(hash, path.references.clone());
            }
            (None, _) => state.forget(hash),
        }
        let is_here = state.held.contains_key(&hash);
        if failed && is_here {
            state.holed.insert(hash)
        } else {
            state.holed.remove(&hash)
        };
        Ok(match fetched {
            Fetched::Here(_) | Fetched::New(..) if !is_here => Fetched::Failed("it came, and did not stay".to_owned()),
            fetched => fetched,
        })
    }

    async fn whole(&self, hash: HashPart) -> Option<Held> {
        let held = self.inner.proxy.held(hash).await?;
        (self.inner.store.is_held(&held.hold).await == Some(true)).then_some(held)
    }

    fn hold(&self, state: &mut State, hash: HashPart, held: Held) -> Result<(), Full> {
        let most = self.inner.room.as_ref().map(|(_, most)| *most).ok_or(Full)?;
        let others = state.held.get(&hash).map_or(state.size, |before| state.size.without(before.hold.size()));
        let size = others + held.hold.size();
        if !size.fits(most) {
            return Err(Full);
        }
        self.inner.store.pin(&held.hold);
        state.lost.remove(&hash);
        state.held.insert(hash, held);
        state.size = size;
        Ok(())
    }

    /// Pins these roots, if everything of them is here or comes, and there is room for it.
    pub(super) async fn pin(
        &self,
        roots: Vec<HashPart>,
        wanted: Wanted,
        tell: impl FnMut(&Tally),
    ) -> Result<Tally, String> {
        self.may_change()?;
        if !self.has_disk() {
            return Err(
                "there is no disk tier now (snowbank status), and what is in memory only cannot be kept".to_owned()
            );
        }
        let coming = Coming { pins: self, roots: roots.clone() };
        self.lock().coming.extend(roots.iter().map(|root| (*root, wanted)));
        let full = AtomicBool::new(false);
        let one = async |hash| {
            let fetched = match full.load(Ordering::Relaxed) {
                true => Err(Full),
                false => self.have(hash).await,
            };
            full.fetch_or(fetched.is_err(), Ordering::Relaxed);
            (hash, fetched.unwrap_or_else(|Full| Fetched::Failed(String::new())))
        };
        let tally = fetch_by(one, roots.iter().copied(), wanted, tell).await;
        if full.into_inner() {
            return Err(format!("nothing is pinned: {}", self.most()));
        }
        if tally.failed == 0 {
            self.change(|state| {
                for root in roots {
                    let path = state.held.get(&root).and_then(|held| StorePath::parse_base(&held.path.name).ok());
                    let path = path.ok_or("what came is gone already")?;
                    state.pins.retain(|pin| pin.hash() != root);
                    state.pins.push(Pin { path, closure: wanted == Wanted::Closures });
                }
                Ok(())
            })
            .await?;
        }
        drop(coming);
        Ok(tally)
    }

    /// Lets these go; those of them that were pinned.
    pub(super) async fn unpin(&self, roots: &[HashPart]) -> Result<Vec<Pin>, String> {
        self.may_change()?;
        let mut gone = Vec::new();
        self.change(|state| {
            gone = state.pins.extract_if(.., |pin| roots.contains(&pin.hash())).collect();
            Ok(())
        })
        .await?;
        self.settle();
        Ok(gone)
    }

    fn may_change(&self) -> Result<(), String> {
        if self.inner.room.is_none() {
            return Err("the store has no disk (store.disk), and what is in memory only cannot be kept".to_owned());
        }
        self.lock().unreadable.clone().map_or(Ok(()), Err)
    }

    /// Changes the list on disk, and then here.
    async fn change(&self, change: impl FnOnce(&mut State) -> Result<(), &'static str>) -> Result<(), String> {
        let _changing = self.inner.changing.lock().await;
        let (before, after) = {
            let mut state = self.lock();
            let before = state.pins.clone();
            let changed = change(&mut state);
            // They hold only once they are written down.
            let after = std::mem::replace(&mut state.pins, before.clone());
            changed?;
            (before, after)
        };
        if after.len() > list::MOST {
            return Err(format!("more than {} pins", list::MOST));
        }
        if let Some((file, _)) = self.inner.room.clone().filter(|_| before != after) {
            let (told, written) = (file.display().to_string(), after.clone());
            let written = tokio::task::spawn_blocking(move || list::write(&file, &written)).await;
            written.map_err(std::io::Error::other).flatten().map_err(|error| format!("{told}: {error}"))?;
        }
        self.lock().pins = after;
        Ok(())
    }

    /// Lets go what belongs to no pin. Tells how many paths of the pins are not here.
    fn settle(&self) -> i64 {
        let (metrics, mut state) = (&self.inner.metrics, self.lock());
        let (wanted, coming) = (state.paths_of(&state.roots()), state.paths_of(&state.coming));
        state.held.retain(|hash, _| wanted.contains(hash) || coming.contains(hash));
        state.lost.retain(|hash, _| wanted.contains(hash) || coming.contains(hash));
        state.holed.retain(|hash| wanted.contains(hash));
        state.size = state.held.values().fold(Room::default(), |sum, held| sum + held.hold.size());
        self.inner.store.pin_only(state.held.values().map(|held| &held.hold));
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let missing = count(state.missing_of(&wanted));
        metrics.pins.set(count(state.pins.len() as u64));
        metrics.paths.set(count(wanted.len() as u64));
        metrics.missing.set(missing);
        metrics.bytes.set(count(state.size.total()));
        missing
    }

    /// All pins together.
    pub(super) fn summary(&self) -> document::Pins {
        let metrics = &self.inner.metrics;
        let count = |gauge: i64| u64::try_from(gauge).unwrap_or_default();
        document::Pins {
            pins: count(metrics.pins.get()),
            paths: count(metrics.paths.get()),
            missing: count(metrics.missing.get()),
            bytes: count(metrics.bytes.get()),
            most_bytes: self.inner.room.as_ref().map_or(0, |(_, most)| most.total()),
        }
    }

    /// Each pin.
    pub(super) fn list(&self) -> Vec<document::Pin> {
        let state = self.lock();
        let shown = |pin: &Pin| {
            let paths = state.paths_of(&[(pin.hash(), pin.wanted())]);
            let size = paths.iter().filter_map(|hash| state.held.get(hash)).map(|held| held.hold.size());
            document::Pin {
                path: pin.path.to_string(),
                closure: pin.closure,
                paths: paths.len() as u64,
                missing: state.missing_of(&paths),
                bytes: size.fold(Room::default(), |sum, size| sum + size).total(),
            }
        };
        state.pins.iter().map(shown).collect()
    }

    fn most(&self) -> String {
        let most = self.inner.room.as_ref().map_or(0, |(_, most)| most.total());
        let taken = self.lock().size.total();
        format!(
            "half of store.disk is the most that is kept through eviction, which is {} MiB; {} MiB are taken and more is wanted",
            most >> 20,
            taken >> 20
        )
    }

    fn has_disk(&self) -> bool {
        matches!(self.inner.store.usage().disk, DiskUsage::Up(_))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Roots that are being fetched. Whatever comes of that, in the end only what is pinned stays.
struct Coming<'a> {
    pins: &'a Pins,
    roots: Vec<HashPart>,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        // One command at a time pins.
        self.pins.lock().coming.retain(|(root, _)| !self.roots.contains(root));
        self.pins.settle();
    }
}

impl Pin {
    fn wanted(&self) -> Wanted {
        if self.closure { Wanted::Closures } else { Wanted::Paths }
    }
}

impl State {
    fn roots(&self) -> Vec<(HashPart, Wanted)> {
        self.pins.iter().map(|pin| (pin.hash(), pin.wanted())).collect()
    }

    /// These paths, and what the closures among them refer to, as far as that is known.
    fn paths_of(&self, roots: &[(HashPart, Wanted)]) -> HashSet<HashPart> {
        let closures = roots.iter().filter(|(_, wanted)| *wanted == Wanted::Closures);
        let mut left: Vec<HashPart> = closures.map(|(root, _)| *root).collect();
        let mut found: HashSet<HashPart> = left.iter().copied().collect();
        while let Some(hash) = left.pop() {
            let references = self.held.get(&hash).map(|held| &held.path.references).or_else(|| self.lost.get(&hash));
            left.extend(references.into_iter().flatten().copied().filter(|hash| found.insert(*hash)));
        }
        found.extend(roots.iter().map(|(root, _)| *root));
        found
    }

    fn forget(&mut self, hash: HashPart) {
        self.held.remove(&hash);
        self.lost.remove(&hash);
    }

    fn missing_of(&self, paths: &HashSet<HashPart>) -> u64 {
        paths.iter().filter(|hash| !self.held.contains_key(hash) || self.holed.contains(hash)).count() as u64
    }
}
