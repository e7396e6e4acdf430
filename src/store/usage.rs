//! How full the tiers are, for who looks.

use super::Store;

/// Bytes that are taken, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Taken.
    pub used: u64,
    /// There.
    pub capacity: u64,
}

/// The disk, as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskUsage {
    /// None is wanted.
    Off,
    /// It is being opened; that is being tried for the first time.
    Opening,
    /// It could not be opened, or was taken out.
    Down,
    /// In use. What counts are whole blocks, which stay full once they have been: a full tier is an ordinary one.
    Up(Taken),
}

/// How full the tiers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Chunks of NARs in memory.
    pub nar: Taken,
    /// Manifests and small objects in memory.
    pub meta: Taken,
    /// On disk.
    pub disk: DiskUsage,
}

impl Store {
    /// How much of what nobody has asked for yet may be kept, in bytes: a part of the lowest tier, so that it pushes out little of
    /// what is in use.
    pub fn room_ahead(&self) -> u64 {
        match self.inner.disk.load().as_ref() {
            Some(disk) => disk.capacity / 8,
            None => self.inner.nar.capacity() as u64 / 4,
        }
    }

    /// Whether the disk takes what is written as fast as it comes.
    pub fn is_at_ease(&self) -> bool {
        self.inner.disk.load().as_ref().is_none_or(|disk| disk.nar.is_at_ease())
    }

    /// How full the tiers are, of all spaces together. Does no I/O.
    pub fn usage(&self) -> Usage {
        let inner = &self.inner;
        let taken = |(used, capacity): (usize, usize)| Taken { used: used as u64, capacity: capacity as u64 };
        let disk = match inner.disk.load_full() {
            Some(disk) => DiskUsage::Up(Taken { used: disk.full(), capacity: disk.capacity }),
            None if !inner.options.wants_disk() => DiskUsage::Off,
            None if !self.is_open() => DiskUsage::Opening,
            None => DiskUsage::Down,
        };
        Usage { nar: taken((inner.nar.usage(), inner.nar.capacity())), meta: taken(inner.catalog.memory()), disk }
    }
}
