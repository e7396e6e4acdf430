//! The closed sets of words that label metrics, and that logs and `Cache-Status` use too.

use crate::label;

label! {
    /// How a request was answered.
    pub enum Outcome as "outcome" {
        /// Made here: `nix-cache-info`, the page for a browser, redirects, what a CA reads.
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
        /// What the upstreams offered was refused: see `snowbank_upstream_refused_total`.
        Refused = "refused",
        /// The request itself was at fault.
        BadRequest = "bad-request",
        /// The listener serves only clients that are granted something, and this one is not.
        Denied = "denied",
        /// The client asks for more than its limit, or all of them together for more than theirs.
        Limited = "limited",
        /// The client left before there was an answer.
        Abandoned = "abandoned",
        /// A mistake of ours.
        Internal = "internal",
    }
}

label! {
    /// What became of narinfos that were asked for ahead.
    pub enum Prefetched as "fate" {
        /// An upstream was asked.
        Fetched = "fetched",
        /// A client asked for it then.
        Used = "used",
    }
}

label! {
    /// What the `[[access]]` tables say about a request.
    pub enum AccessDecision as "decision" {
        /// The client may see at least one private upstream.
        Granted = "granted",
        /// It showed an Authorization, and meets no table.
        Refused = "refused",
    }
}

label! {
    /// A limit that was reached: of one client, but for the last.
    pub enum LimitReached as "limit" {
        /// Requests per second.
        Requests = "requests",
        /// Connections open at a time.
        OpenConnections = "connections",
        /// New connections per second.
        NewConnections = "new-connections",
        /// Requests in flight, of all clients.
        InFlight = "in-flight",
    }
}

label! {
    /// Why a fill ended without a whole NAR.
    pub enum FillFailure as "reason" {
        /// Too many others wait for their turn.
        Busy = "busy",
        /// Every source said that it has it not.
        Gone = "gone",
        /// It could not be asked, and its `when_down` makes a miss of that.
        Down = "down",
        /// No source answered.
        Unknown = "unknown",
        /// The upstream's connection broke or stalled in the middle.
        Cut = "cut",
        /// Fewer bytes than promised.
        Short = "short",
        /// What came is not what was announced: see `snowbank_upstream_refused_total`.
        Refused = "refused",
        /// What several upstreams sent, each a part, does not make up what was announced: one of them sent something else.
        Spliced = "spliced",
        /// Nobody read it any more, and too much of it was missing to go on.
        Abandoned = "abandoned",
        /// The program was stopped meanwhile.
        Stopped = "stopped",
        /// The fill's task died.
        Internal = "internal",
    }
}

label! {
    /// Why an upstream was left in the middle of a NAR, and the rest asked for anew.
    pub enum Left as "reason" {
        /// Its connection broke.
        Cut = "cut",
        /// Its answer ended before the end of the NAR.
        Short = "short",
        /// It sent nothing for the stall limit.
        Stalled = "stalled",
        /// It sent less than the minimum rate.
        Slow = "slow",
        /// It could not be asked for the rest.
        Unasked = "unasked",
    }
}

label! {
    /// Why something of an upstream was not believed: its narinfo, or the NAR it sent.
    pub enum Refusal as "reason" {
        /// It is no narinfo at all: a login page, an error page. Clients are told "unknown", not "not found".
        NotANarinfo = "not-a-narinfo",
        /// It breaks a rule of the format.
        Malformed = "malformed",
        /// It is about another store path than the one asked for (R6).
        OtherPath = "other-path",
        /// No signature by a key of this upstream verifies, and no content address vouches for it (R1).
        Untrusted = "untrusted",
        /// Its URL leads out of the upstream (R14).
        BadUrl = "bad-url",
        /// Its NAR could not be proven: it has no FileHash and a compression that is not understood here.
        Unprovable = "unprovable",
        /// It announces a NAR that was found out not to be what it says.
        Quarantined = "quarantined",
        /// The bytes of the NAR are not those of FileHash (R7).
        WrongFileHash = "wrong-file-hash",
        /// There are more bytes at the URL than FileSize, or another number (R7).
        WrongSize = "wrong-size",
        /// What is in the NAR is not what NarHash says (R7).
        WrongNarHash = "wrong-nar-hash",
        /// What is in the NAR is longer or shorter than NarSize (R7).
        WrongNarSize = "wrong-nar-size",
        /// What is inside is no NAR, or one that would harm who unpacks it.
        BadNar = "bad-nar",
        /// Its directories nest deeper than Nix takes since CVE-2026-44028; old ones would, at their peril.
        TooDeep = "too-deep",
        /// It cannot be decompressed, or only with more memory than is given.
        Undecodable = "undecodable",
        /// What is in the NAR does not have the content address that CA gives (R3).
        WrongAddress = "wrong-address",
        /// Another trusted upstream says another NarHash for the same path; the first answer stays.
        Conflict = "conflict",
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
        /// What a CA reads while it validates a name of this server.
        AcmeChallenge = "acme-challenge",
        /// The page for a browser, `/`.
        Page = "page",
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
        /// Its client had as many as one may have: nothing was read from it.
        Limited = "limited",
        /// It came from a proxy that did not say for whom.
        ProxyHeader = "proxy-header",
        /// No TLS session came about.
        Handshake = "handshake",
        /// The client broke off, or broke the protocol.
        Error = "error",
        /// The client asked only to abandon what it asked for.
        Flood = "flood",
        /// No request for a minute or two.
        Idle = "idle",
        /// The client no longer read.
        Stalled = "stalled",
        /// The drain's time was up.
        Aborted = "aborted",
    }
}

label! {
    /// The version of TLS that a client and we agreed on.
    pub enum TlsVersion as "version" {
        /// TLS 1.3
        Tls13 = "1.3",
        /// TLS 1.2
        Tls12 = "1.2",
    }
}

label! {
    /// Whether a TLS session goes on from an earlier one.
    pub enum TlsSession as "session" {
        /// It begins anew.
        New = "new",
        /// It goes on.
        Resumed = "resumed",
    }
}

label! {
    /// What is written into the library.
    pub enum Written as "kind" {
        /// `nix-cache-info`
        Info = "cache-info",
        /// A narinfo.
        NarInfo = "narinfo",
        /// A NAR.
        Nar = "nar",
    }
}

label! {
    /// What became of something that was to be in the library.
    pub enum WrittenAs as "result" {
        /// It was not there, and is now.
        Created = "created",
        /// It was there.
        There = "there",
        /// It is there in place of something wrong.
        Replaced = "replaced",
    }
}

label! {
    /// Why a path was not written into the library.
    pub enum Dropped as "reason" {
        /// Too many others wait.
        Full = "full",
        /// The library did not take it.
        Failed = "failed",
        /// Parts of it are not here any more.
        Hole = "hole",
        /// The program ended before it was its turn.
        Stopping = "stopping",
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

label! {
    /// How reading the configuration again ended.
    pub enum ReloadEnd as "result" {
        /// It is in force.
        Applied = "applied",
        /// Something is wrong in it; nothing changed.
        Refused = "refused",
    }
}

label! {
    /// What the scrubber found where a chunk should be.
    pub enum Scrubbed as "result" {
        /// The right bytes.
        Right = "right",
        /// Other bytes.
        Wrong = "wrong",
        /// Nothing: it was evicted.
        Absent = "absent",
        /// Other bytes, and then the right ones from an upstream.
        Mended = "mended",
    }
}

label! {
    /// Why a certificate could not be had, or not be put in force.
    pub enum CertificateFailure as "reason" {
        /// A file cannot be read.
        Unreadable = "unreadable",
        /// A file is not what it should be.
        Malformed = "malformed",
        /// The key has a passphrase.
        Passphrase = "passphrase",
        /// The key is another certificate's.
        Mismatch = "mismatch",
        /// The certificate's life is over.
        Expired = "expired",
        /// The certificate's life has not begun.
        NotYetValid = "not-yet-valid",
        /// The certificate is for other names.
        OtherNames = "other-names",
        /// The CA does not answer, or answers something that is not ACME.
        Unreachable = "unreachable",
        /// The CA asks for fewer orders.
        RateLimited = "rate-limited",
        /// So many orders were made within an hour that no more are, although one is due.
        HeldBack = "held-back",
        /// The CA has no account for us.
        Account = "account",
        /// The CA does not take the order.
        Refused = "refused",
        /// The CA could not see that the name is ours.
        Validation = "validation",
        /// The program for DNS records failed.
        Hook = "hook",
        /// The certificate that came is of no use.
        Unusable = "unusable",
        /// The state directory cannot be read or written.
        Storage = "storage",
        /// A mistake of ours.
        Internal = "internal",
    }
}
