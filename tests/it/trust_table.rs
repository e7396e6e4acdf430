//! Narinfos that are hostile or malformed, and narinfos that are only odd: two tables, through one program that signs.
//!
//! Of the first table every row is refused with its reason, counted once, kept by nobody and signed by nobody. Of the
//! second every row is accepted, served, signed, and its NAR is served too. Each row is an object of its own, because a
//! refusal is remembered per path.

mod hostile;
mod malformed;
mod odd;
mod unproven;
mod untrusted;

use crate::support::cache::{Compression, Key, Object, narinfo_fields};
use crate::support::client::End;
use crate::support::lies::{LIES, lie};
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::trust::{Refusals, by_keys, signatures_named};
use hostile::{Case, Good};
use odd::Row;

/// The trust of an upstream, which is its name too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Keys,
    Origin,
    Pass,
}

impl Trust {
    fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Origin => "origin",
            Self::Pass => "pass",
        }
    }
}

/// The program with one upstream of each trust; each has only what a row gives it.
struct Table {
    origins: [(Trust, Origin); 3],
    /// An address that nobody may ask.
    elsewhere: Origin,
    /// An upstream with another key, which has nothing.
    _other: Origin,
    upstream_key: Key,
    own_key: Key,
    snowbank: Snowbank,
}

impl Table {
    fn start() -> Self {
        let (upstream_key, own_key) = (Key::new("upstream-1"), Key::new("own-1"));
        let origins = [Trust::Keys, Trust::Origin, Trust::Pass].map(|trust| (trust, Origin::start()));
        let mut setup = Setup::new().also("[cache]\nnegative_ttl = \"0 s\"\n").signing(&[&own_key], "");
        for (trust, origin) in &origins {
            let lines = match trust {
                Trust::Keys => by_keys(&[&upstream_key]),
                Trust::Origin | Trust::Pass => format!("trust = {:?}", trust.name()),
            };
            setup = setup.named_upstream(trust.name(), &origin.url(), &lines);
        }
        let other = Origin::start();
        setup = setup.named_upstream("other", &other.url(), &by_keys(&[&Key::new("other-1")]));
        let snowbank = setup.start();
        // Until then a "not there" is asked for twice, and each row counts.
        snowbank.wait_for_disk();
        Self { origins, elsewhere: Origin::start(), _other: other, upstream_key, own_key, snowbank }
    }

    fn origin(&self, trust: Trust) -> &Origin {
        &self.origins.iter().find(|(t, _)| *t == trust).expect("one of each").1
    }

    /// A good narinfo, and what a row may want for making a bad one of it.
    fn good(&self, name: &str, trust: Trust) -> Good {
        let mut object = Object::compressed(&format!("{}-{name}", trust.name()), 300, Compression::Zstd);
        object.references = ["alpha-1.0", "beta-2.0"].map(|name| Object::new(name, 0).base_name).to_vec();
        object.references.sort();
        object.extra = vec![format!("Deriver: {}.drv", object.base_name), "System: x86_64-linux".to_owned()];
        let text = object.narinfo(&[&self.upstream_key]);
        Good { object, text, key: Key::new("upstream-1"), elsewhere: self.elsewhere.url() }
    }

    /// One row: refused, and once the upstream has the good one, served as if nothing had been. What went wrong, if
    /// anything did.
    async fn refuses(&self, case: &Case, trust: Trust) -> Result<(), String> {
        let good = self.good(&case.name, trust);
        let origin = self.origin(trust);
        let target = good.object.narinfo_target();
        origin.forget();
        origin.serve(&target, Reply::bytes((case.make)(&good)));
        origin.serve(&good.object.file_target(), Reply::bytes(good.object.file.clone()));
        let reason = self.refusal(&target, case.status, trust).await?;
        ensure(case.reasons.contains(&reason.as_str()), || format!("for the reason {reason}"))?;
        let asked = origin.requests();
        let fits = asked.iter().all(|r| r.target == target || r.target == "/nix-cache-info");
        ensure(fits, || format!("asked for more: {asked:?}"))?;

        origin.serve(&target, Reply::bytes(good.text.clone()));
        let mut answer = self.snowbank.http().get(&target).await;
        if answer.status == 404 && String::from_utf8_lossy(&answer.body).contains("is refused") {
            // Joined to the question before, whose task was just ending: that answer is not kept either.
            answer = self.snowbank.http().get(&target).await;
        }
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        ensure(answer.status == 200, || format!("the good one is {}: {text:?}", answer.status))?;
        let nar_hash = format!("sha256:{}", good.object.nar_hash());
        ensure(narinfo_fields(&text, "NarHash") == [nar_hash], || format!("another one is served:\n{text}"))?;
        if trust == Trust::Pass {
            return ensure(!text.contains(self.own_key.name()), || format!("signed:\n{text}"));
        }
        let own = signatures_named(&text, self.own_key.name());
        let signed = own.len() == 1 && self.own_key.made(own[0], &good.object.fingerprint());
        ensure(signed, || format!("not signed once:\n{text}"))
    }

    /// One row of the other table: served, signed, kept, and its NAR served.
    async fn accepts(&self, origin: &Origin, row: &Row) -> Result<(), String> {
        let (object, client) = (&row.object, self.snowbank.http());
        let target = object.narinfo_target();
        origin.serve(&target, Reply::bytes(row.text.clone()));
        origin.serve(&row.file_target, Reply::bytes(object.file.clone()));
        let answer = client.get(&target).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        ensure(answer.status == 200, || format!("{}: {text:?} for\n{}", answer.status, row.text))?;
        let own = signatures_named(&text, self.own_key.name());
        let signed = own.len() == 1 && self.own_key.made(own[0], &object.fingerprint());
        ensure(signed, || format!("not signed once:\n{text}"))?;
        let told = narinfo_fields(&text, "Sig");
        let kept = told.iter().any(|sig| self.upstream_key.made(sig, &object.fingerprint()));
        ensure(kept, || format!("the upstream's signature is gone:\n{text}"))?;
        for (field, value) in [
            ("Compression", object.compression.name().to_owned()),
            ("NarHash", format!("sha256:{}", object.nar_hash())),
            ("NarSize", object.nar.len().to_string()),
            ("References", object.references.join(" ")),
        ] {
            ensure(narinfo_fields(&text, field) == [value], || format!("{field} is another:\n{text}"))?;
        }
        let url = format!("/{}", narinfo_fields(&text, "URL")[0]);
        let by_nar_hash =
            format!("/nar/{}-{}.nar{}", object.hash_part(), object.nar_hash(), object.compression.extension());
        let named = if row.text.contains("FileHash: ") { object.served_target() } else { by_nar_hash };
        ensure(url == named, || format!("its URL is {url}, not {named}"))?;
        let nar = client.get(&url).await;
        let same = nar.status == 200 && nar.end == End::Clean && nar.body == object.file;
        ensure(same, || format!("its NAR is {} with {} bytes, {:?}", nar.status, nar.body.len(), nar.end))?;
        let asked = origin.count(&target);
        let again = client.get(&target).await;
        ensure(again.status == 200 && again.body == answer.body, || "another answer the second time".to_owned())?;
        ensure(origin.count(&target) == asked, || "not kept".to_owned())
    }

    /// Asks for a narinfo that must be refused: the reason, which was counted once and is what the client reads.
    async fn refusal(&self, target: &str, status: u16, trust: Trust) -> Result<String, String> {
        let before = self.snowbank.refusals();
        let answer = self.snowbank.http().get(target).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        ensure(answer.status == status, || format!("{}: {text:?}", answer.status))?;
        let mut refused = self.snowbank.refusals().since(&before);
        if refused.len() > 1 {
            // A NAR was refused, and then the narinfo that announces it.
            refused.retain(|(_, reason, _)| reason != "quarantined");
        }
        let [(upstream, reason, 1)] = refused.as_slice() else { return Err(format!("counted {refused:?}")) };
        ensure(upstream == trust.name(), || format!("counted for {upstream}"))?;
        ensure(text.lines().count() == 1, || format!("not one line of text: {text:?}"))?;
        // What is no narinfo is no refusal to the client: the upstream said nothing about the path.
        ensure(status != 404 || text.contains(reason.as_str()), || format!("no word of {reason}: {text:?}"))?;
        // Its name may be told where an upstream signed in it, and no more: no signature, no key.
        ensure(!text.contains(&format!("{}:", self.own_key.name())), || format!("our own key: {text:?}"))?;
        Ok(reason.clone())
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Runs each row, and tells of all that fail.
async fn all_refused(cases: Vec<Case>, trusts: &[Trust], at_least: usize) {
    let table = Table::start();
    assert!(cases.len() >= at_least, "{} rows", cases.len());
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases.len(), "a row has a name of its own");
    let mut wrong = Vec::new();
    for case in &cases {
        for trust in trusts {
            if let Err(what) = table.refuses(case, *trust).await {
                wrong.push(format!("{} by {}: {what}", case.name, trust.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(table.elsewhere.total(), 0, "{:?}", table.elsewhere.requests());
}

#[tokio::test]
async fn r2_what_breaks_a_rule_of_the_format_is_refused_whatever_the_trust() {
    all_refused(malformed::malformed(), &[Trust::Keys, Trust::Origin, Trust::Pass], 200).await;
}

#[tokio::test]
async fn r6_a_narinfo_of_another_path_is_refused_whatever_the_trust() {
    all_refused(hostile::of_another_path(), &[Trust::Keys, Trust::Origin, Trust::Pass], 3).await;
}

#[tokio::test]
async fn r14_a_url_that_leads_elsewhere_is_refused_whatever_the_trust() {
    all_refused(hostile::bad_urls(), &[Trust::Keys, Trust::Origin, Trust::Pass], 20).await;
}

#[tokio::test]
async fn r1_what_no_trusted_key_signed_is_refused() {
    all_refused(untrusted::untrusted(), &[Trust::Keys], 30).await;
}

#[tokio::test]
async fn what_is_no_narinfo_at_all_is_not_taken_for_a_miss() {
    all_refused(hostile::no_narinfo(), &[Trust::Keys, Trust::Origin, Trust::Pass], 5).await;
}

/// What an upstream that the operator vouches for says unsigned is proven before it is signed and answered (R3).
#[tokio::test]
async fn r3_an_unsigned_narinfo_whose_nar_does_not_fit_is_refused_before_it_is_signed() {
    let table = Table::start();
    let origin = table.origin(Trust::Origin);
    let mut wrong = Vec::new();
    let refuses = async |object: &Object, narinfo: String, reasons: &[&str]| {
        origin.serve(&object.narinfo_target(), Reply::bytes(narinfo));
        let reason = table.refusal(&object.narinfo_target(), 404, Trust::Origin).await?;
        ensure(reasons.contains(&reason.as_str()), || format!("for the reason {reason}"))
    };
    for (n, name) in LIES.into_iter().enumerate() {
        let object = Object::compressed(&format!("object-{n}"), 3_000, Compression::Xz);
        let lie = lie(name, &object, &[]);
        origin.serve(&lie.file_target, Reply::bytes(lie.file.clone()));
        let outcome: Result<(), String> = refuses(&object, lie.narinfo, lie.reasons).await;
        wrong.extend(outcome.err().map(|what| format!("{name}: {what}")));
    }
    for row in unproven::unproven() {
        let object = Object::compressed(row.name, 3_000, row.compression);
        let served = (row.file)(&object);
        let told = (row.told)(&object, &served);
        origin.serve(&object.file_target(), Reply::bytes(served));
        let outcome = refuses(&object, told, row.reasons).await;
        wrong.extend(outcome.err().map(|what| format!("{}: {what}", row.name)));
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn odd_but_legal_narinfos_are_accepted_served_and_signed() {
    let table = Table::start();
    let origin = table.origin(Trust::Keys);
    let rows = odd::rows(origin, &table.upstream_key, &table.own_key);
    assert!(rows.len() >= 30, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        if let Err(what) = table.accepts(origin, row).await {
            wrong.push(format!("{}: {what}", row.name));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(table.snowbank.refusals(), Refusals::default());
}
