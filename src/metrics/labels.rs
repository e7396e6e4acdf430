//! The closed sets of words that label metrics, and that logs and `Cache-Status` use too.

use crate::label;

label! {
    /// How a request was answered.
    pub enum Outcome as "outcome" {
        /// Made here: `nix-cache-info`, the status page.
        Local = "local",
        /// From the store.
        Hit = "hit",
        /// From an upstream, which was asked for this request.
        Miss = "miss",
        /// From an upstream that was being asked already.
        Follower = "follower",
        /// From the store although its lifetime is over, because no upstream could be asked.
        Stale = "stale",
        /// "Not found", remembered from a moment ago.
        Negative = "negative",
        /// "Not found": every upstream said so.
        NotFound = "not-found",
        /// No answer: an upstream that might have it could not be asked.
        Unknown = "unknown",
        /// What the upstreams offered was refused: see `snowbank_proxy_refused_total`.
        Refused = "refused",
        /// The request itself was at fault.
        BadRequest = "bad-request",
        /// The client left before there was an answer.
        Abandoned = "abandoned",
        /// A mistake of ours.
        Internal = "internal",
    }
}

label! {
    /// Why a fill ended without a whole NAR.
    pub enum FillFailure as "reason" {
        /// Every source said that it has it not.
        Gone = "gone",
        /// No source answered.
        Unknown = "unknown",
        /// The upstream's connection broke or stalled in the middle.
        Cut = "cut",
        /// Fewer bytes than promised.
        Short = "short",
        /// More bytes than promised.
        Long = "long",
        /// The upstream's size is not the narinfo's.
        WrongSize = "wrong-size",
        /// The bytes are not those of the hash.
        WrongHash = "wrong-hash",
        /// Nobody read it any more, and too much of it was missing to go on.
        Abandoned = "abandoned",
        /// The program was stopped meanwhile.
        Stopped = "stopped",
        /// The fill's task died.
        Internal = "internal",
    }
}

label! {
    /// Why a narinfo of an upstream was not believed.
    pub enum Refusal as "reason" {
        /// It is no narinfo at all: a login page, an error page. Clients are told "unknown", not "not found".
        NotANarinfo = "not-a-narinfo",
        /// It breaks a rule of the format.
        Malformed = "malformed",
        /// It is about another store path than the one asked for (R6).
        OtherPath = "other-path",
        /// No signature by a key of this upstream verifies (R1).
        Untrusted = "untrusted",
        /// Its URL leads out of the upstream (R14).
        BadUrl = "bad-url",
        /// It is compressed and has no FileHash, so that its bytes could not be proven while they stream.
        Unprovable = "unprovable",
    }
}

label! {
    /// What was asked for.
    pub enum Route as "route" {
        /// `nix-cache-info`
        CacheInfo = "cache-info",
        /// A narinfo.
        NarInfo = "narinfo",
        /// A NAR.
        Nar = "nar",
        /// `<hash>.ls`
        Listing = "listing",
        /// A build log.
        Log = "log",
        /// A realisation, as Nix before 2.35 asks for it.
        Realisation = "realisation",
        /// A realisation, as Nix since 2.35 asks for it.
        BuildTrace = "build-trace",
        /// Where the debug information of a build id is.
        DebugInfo = "debuginfo",
        /// Nothing a binary cache has.
        Other = "other",
    }
}

label! {
    /// How a response ended.
    pub enum ResponseEnd as "end" {
        /// All of it was handed to the connection.
        Complete = "complete",
        /// The client went away first.
        ClientGone = "client-gone",
        /// The source of the bytes broke off, so we did (R8).
        Broken = "broken",
    }
}

label! {
    /// How a connection ended.
    pub enum ConnectionEnd as "end" {
        /// In order.
        Closed = "closed",
        /// No TLS session came about.
        Handshake = "handshake",
        /// The client broke off, or broke the protocol.
        Error = "error",
        /// No request for a minute or two.
        Idle = "idle",
        /// The client no longer read.
        Stalled = "stalled",
        /// The drain's time was up.
        Aborted = "aborted",
    }
}

label! {
    /// Where a read of the store was answered from.
    pub enum Place as "place" {
        /// The memory tier.
        Memory = "memory",
        /// The disk tier.
        Disk = "disk",
        /// Nowhere.
        Nowhere = "nowhere",
    }
}

label! {
    /// One of the store's two tiers.
    pub enum StoreTier as "tier" {
        /// Chunks of NARs.
        Nar = "nar",
        /// Manifests and small objects.
        Meta = "meta",
    }
}
