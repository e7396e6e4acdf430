//! A bucket in memory that does what a test says, and notes what is put into it in which order.
//!
//! It knows as much of S3 as a library needs: GET with ranges, PUT with and without conditions, uploads in parts. It believes
//! any signature; that ours are right, [`super::seaweedfs`] sees.

use super::origin::{Origin, Reply, Request};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// What becomes of `If-None-Match: *`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// What is there stays: 412.
    Kept,
    /// It is not known, and does nothing.
    Ignored,
    /// Whoever has it in a request is told 501.
    Refused,
}

/// Which answers are errors.
type Fault = Arc<dyn Fn(&Request) -> Option<Reply> + Send + Sync>;

#[derive(Default)]
struct Contents {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    /// Keys in the order in which they came to be there.
    put: Vec<String>,
    fault: Option<Fault>,
}

/// See the module. Dropping it closes the port.
pub struct Pail {
    pub origin: Origin,
    contents: Arc<Mutex<Contents>>,
}

impl Pail {
    /// An empty one.
    pub fn start(conditions: Conditions) -> Self {
        let (origin, contents) = (Origin::start(), Arc::<Mutex<Contents>>::default());
        let shared = Arc::clone(&contents);
        origin.otherwise(move |request, _| {
            let mut contents = shared.lock().expect("nobody panicked");
            if let Some(reply) = contents.fault.as_ref().and_then(|fault| fault(request)) {
                return reply;
            }
            contents.answer(request, conditions)
        });
        Self { origin, contents }
    }

    /// Its address, as a library.
    pub fn url(&self) -> String {
        format!("s3://pail?endpoint={}&region=us-east-1", self.origin.url())
    }

    /// From now on this decides first.
    pub fn fail(&self, fault: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) {
        self.lock().fault = Some(Arc::new(fault));
    }

    /// The object of this name.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.lock().objects.get(key).cloned()
    }

    /// Names of objects, in the order in which they were written.
    pub fn written(&self) -> Vec<String> {
        self.lock().put.clone()
    }

    /// Uploads that were neither finished nor given up.
    pub fn open_uploads(&self) -> usize {
        self.lock().uploads.len()
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().expect("nobody panicked")
    }
}

impl Contents {
    fn answer(&mut self, request: &Request, conditions: Conditions) -> Reply {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let Some(key) = path.strip_prefix("/pail/").map(str::to_owned) else { return error(404, "NoSuchBucket") };
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        };
        match (request.method.as_str(), parameter("uploadId"), parameter("partNumber")) {
            ("GET", ..) => match self.objects.get(&key) {
                Some(object) => Reply::bytes(object.clone()).field("ETag", "\"x\""),
                None => error(404, "NoSuchKey"),
            },
            ("PUT", None, None) => match (request.field("if-none-match"), conditions) {
                (Some(_), Conditions::Refused) => error(501, "NotImplemented"),
                (Some(_), Conditions::Kept) if self.objects.contains_key(&key) => error(412, "PreconditionFailed"),
                _ => self.write(key, request.body.clone()),
            },
            ("POST", None, _) if query.starts_with("uploads") => {
                let id = format!("upload-{}", self.uploads.len());
                self.uploads.insert(id.clone(), BTreeMap::new());
                Reply::bytes(format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            ("PUT", Some(id), Some(number)) => match self.uploads.get_mut(&id) {
                Some(parts) => {
                    parts.insert(number.parse().expect("a number"), request.body.clone());
                    Reply::bytes("").field("ETag", &format!("\"part-{number}\""))
                }
                None => error(404, "NoSuchUpload"),
            },
            ("POST", Some(id), None) => match self.uploads.remove(&id) {
                Some(parts) => {
                    let sent = String::from_utf8_lossy(&request.body).matches("<Part>").count();
                    assert_eq!(sent, parts.len(), "every part is named");
                    self.write(key, parts.into_values().collect::<Vec<_>>().concat().into());
                    Reply::bytes("<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
                }
                None => error(404, "NoSuchUpload"),
            },
            ("DELETE", Some(id), None) => {
                self.uploads.remove(&id);
                Reply::with_status(204, "")
            }
            _ => error(405, "MethodNotAllowed"),
        }
    }

    fn write(&mut self, key: String, object: Bytes) -> Reply {
        self.put.push(key.clone());
        self.objects.insert(key, object);
        Reply::bytes("").field("ETag", "\"x\"")
    }
}

/// An error as buckets tell it.
pub fn error(status: u16, code: &str) -> Reply {
    Reply::with_status(status, format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>"))
}
