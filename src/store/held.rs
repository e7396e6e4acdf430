//! Which values of the catalog are in memory, by name: foyer's memory cache can neither be listed nor be looked into
//! without that counting as a use.
//!
//! A [`Held`] points to the values and does not keep them. foyer alone decides what stays; what it let go of is an empty
//! pointer here, and is swept out when there are half as many of them as there were values after the last sweep. So
//! foyer tells nobody anything, and a put costs one insert into a map under a lock that is held anyway.
//!
//! A value that is only being written to disk is here as well, as long as somebody keeps it for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::meta::{MetaKey, MetaValue};

/// What a name costs, with the names that are not swept out yet and the counts beside the value (an estimate).
pub const NAME_OVERHEAD: usize = 160;
/// Below so many names there is no sweep.
const FEW: usize = 64;

/// The values in memory whose keys share one lock of the catalog. A value that can be had from here is the newest one.
#[derive(Debug, Default)]
pub struct Held {
    values: BTreeMap<MetaKey, Weak<MetaValue>>,
    sweep_at: usize,
}

impl Held {
    /// `value` was put into memory.
    pub fn put(&mut self, key: MetaKey, value: &Arc<MetaValue>) {
        self.values.insert(key, Arc::downgrade(value));
        if self.values.len() > self.sweep_at.max(FEW) {
            self.values.retain(|_, value| value.strong_count() > 0);
            self.sweep_at = self.values.len() + self.values.len() / 2;
        }
    }

    /// The value of `key`, if it is in memory. Counts as no use.
    pub fn get(&self, key: &MetaKey) -> Option<Arc<MetaValue>> {
        self.values.get(key).and_then(Weak::upgrade)
    }

    /// The value of `key`, if it is in memory; else puts a copy of `value`, known by name as long as the caller keeps it.
    pub fn get_or_put(&mut self, key: MetaKey, value: &MetaValue) -> Arc<MetaValue> {
        self.get(&key).unwrap_or_else(|| {
            let value = Arc::new(value.clone());
            self.put(key, &value);
            value
        })
    }

    /// The key was removed.
    pub fn remove(&mut self, key: &MetaKey) {
        self.values.remove(key);
    }

    /// Everything that is in memory.
    pub fn all(&self) -> Vec<(MetaKey, Arc<MetaValue>)> {
        self.values.iter().filter_map(|(key, value)| Some((*key, value.upgrade()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::EntryKey;

    fn key(n: u32) -> MetaKey {
        MetaKey::Entry(EntryKey::new(1, *blake3::hash(&n.to_le_bytes()).as_bytes()))
    }

    #[test]
    fn names_of_what_is_gone_are_swept_out() {
        let mut held = Held::default();
        let kept: Vec<_> = (0..1000).map(|_| Arc::new(MetaValue::Removed)).collect();
        for (n, value) in (0..).zip(&kept) {
            held.put(key(n), value);
        }
        for n in 1000..100_000 {
            held.put(key(n), &Arc::new(MetaValue::Removed));
            assert!(held.values.len() <= 1501, "{}", held.values.len());
        }
        assert_eq!(held.all().len(), 1000);
        assert!(held.get(&key(7)).is_some() && held.get(&key(99_999)).is_none());
        held.remove(&key(7));
        assert!(held.get(&key(7)).is_none());
    }
}
