//! The shapes of closures: which path refers to which, and how large each is. The root is the last.
//!
//! Only shapes: what is in the files, the names and the signatures are [`crate::corpus`]'s.

/// One path of a closure.
pub struct Member {
    /// Of the file that it is.
    pub size: u64,
    /// The places of those that it refers to, all before its own.
    pub references: Vec<usize>,
}

/// So many paths side by side in a level of [`deep_and_wide`].
const WIDTH: usize = 8;

/// Levels of eight, in which each path refers to two of the level below, under a path that refers to all of them (as that of a
/// system or of an environment does) and one more: with 200 it is 27 deep. 120 KB each on average, from 8 to 230.
pub fn deep_and_wide(count: usize) -> Vec<Member> {
    let mut members: Vec<Member> = (0..count).map(|n| Member { size: size_of(n), references: two_below(n) }).collect();
    members.push(Member { size: 20_000, references: (0..count).collect() });
    members.push(Member { size: 1_000, references: vec![count] });
    members
}

/// Each refers to the one before and to no other.
pub fn chain(count: usize) -> Vec<Member> {
    (0..count).map(|n| Member { size: size_of(n), references: n.checked_sub(1).into_iter().collect() }).collect()
}

/// One path.
pub fn alone(size: u64) -> Vec<Member> {
    vec![Member { size, references: Vec::new() }]
}

fn size_of(n: usize) -> u64 {
    8_000 * (1 + (n as u64 * 7) % 29)
}

/// The two next to a path in the level below, which begins again at its end.
fn two_below(n: usize) -> Vec<usize> {
    let Some(below) = n.checked_sub(WIDTH) else { return Vec::new() };
    let next = if (n + 1).is_multiple_of(WIDTH) { below + 1 - WIDTH } else { below + 1 };
    vec![below, next]
}
