//! The account at the CA: made once for each directory, saved before anything is ordered with it.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use zeroize::Zeroizing;

use super::Options;
use super::failure::Failure;
use super::http::Http;
use crate::metrics::CertificateFailure as Reason;
use crate::tls::vault::Vault;

const FILE: &str = "account.json";

/// The account that is kept, or a new one.
pub(super) async fn open(vault: &Vault, options: &Options, http: &Http) -> Result<Account, Failure> {
    let builder = || Account::builder_with_http(Box::new(http.clone()));
    let kept = vault.get(FILE).map_err(|error| storage(vault, &error))?.map(Zeroizing::new);
    if let Some(kept) = kept {
        let path = vault.path(FILE);
        let read = || serde_json::from_slice::<AccountCredentials>(&kept);
        let unreadable = |error| {
            Failure::new(
                Reason::Storage,
                format!("{}: {error}; take the file away to have another account made", path.display()),
            )
        };
        let _ = read().map_err(unreadable)?;
        // Read again for each attempt: the credentials cannot be copied.
        let opened = patiently!(
            builder()
                .from_credentials(match read() {
                    Ok(credentials) => credentials,
                    Err(error) => break Err(error.into()),
                })
                .await
        );
        return opened.map_err(|error| Failure::of(&error, "the directory cannot be read", http.heard()));
    }
    let external = external_account(options)?;
    let contact: Vec<&str> = options.contact.iter().map(AsRef::as_ref).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let url = options.directory.url();
    let made = patiently!(builder().create(&new, url.to_owned(), external.as_ref()).await);
    let (account, credentials) =
        made.map_err(|error| Failure::of(&error, &format!("no account at {url}"), http.heard()))?;
    let text = serde_json::to_vec(&credentials).map(Zeroizing::new);
    let text = text.map_err(|error| Failure::new(Reason::Storage, error.to_string()))?;
    vault.put(FILE, &text).map_err(|error| storage(vault, &error))?;
    tracing::info!(account = account.id(), "acme: made an account at {url}; its terms of service are agreed to");
    Ok(account)
}

/// Puts an account away that the CA does not know any more, so that the next order makes another one.
pub(super) fn put_away(vault: &Vault) -> Result<(), Failure> {
    std::fs::rename(vault.path(FILE), vault.path("account.gone.json")).map_err(|error| storage(vault, &error))
}

/// The binding that a CA gave its customer (RFC 8555 section 7.3.4).
fn external_account(options: &Options) -> Result<Option<ExternalAccountKey>, Failure> {
    let (Some(id), Some(file)) = (&options.eab_key_id, &options.eab_key_file) else { return Ok(None) };
    let shown = file.display();
    let text = std::fs::read(file).map(Zeroizing::new);
    let text = text.map_err(|error| Failure::new(Reason::Account, format!("{shown}: {error}")))?;
    let any_padding = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let key = GeneralPurpose::new(&URL_SAFE, any_padding).decode(text.trim_ascii()).map(Zeroizing::new);
    // What was found is not told: it is a secret.
    let wrong = || Failure::new(Reason::Account, format!("{shown}: not the base64url text of a key"));
    let key = key.ok().filter(|key| !key.is_empty()).ok_or_else(wrong)?;
    Ok(Some(ExternalAccountKey::new(id.clone(), &key)))
}

pub(super) fn storage(vault: &Vault, error: &std::io::Error) -> Failure {
    Failure::new(Reason::Storage, format!("{}: {error}", vault.path("").display()))
}
