//! One exchange with a service, bounded in size and time.

use std::time::Duration;

use bytes::Bytes;
use cocoon_attest::tdx::collateral::{MAX_ANSWER_LEN, signed_answer};
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::timeout;

use crate::options::{FetcherOptions, OptionsError};
use crate::route::{Route, Service};
use crate::tls;

/// Largest head of an answer, bytes, and most headers in it. A PCS puts its signer's chain there, about 5 KiB.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 100;
/// How long an idle connection is kept.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);
/// Most idle connections to a host.
const IDLE_CONNECTIONS: usize = 4;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// In words; nothing that the service says is repeated.
    pub(crate) reason: String,
}

/// What a failure means for what is asked next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The service does not have this, or not in a form that can be.
    NotThis,
    /// The service is away.
    Away,
    /// The service wants to be left alone, for so long where it says.
    Busy(Option<Duration>),
}

type Connections = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The ways to all services.
#[derive(Debug)]
pub(crate) struct Http {
    public: Connections,
    /// Where it has demands of its own.
    pccs: Option<Connections>,
    nvidia_key: Option<HeaderValue>,
    timeout: Duration,
}

impl Http {
    /// Nothing is dialled yet.
    pub(crate) fn new(options: &FetcherOptions) -> Result<Self, OptionsError> {
        let builder = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::aws_lc_rs::default_provider())?;
        let public = connections(builder.https_or_http().enable_http1(), options.connect_timeout);
        let pccs = tls::client_config(&options.pccs_trust)?.map(|config| {
            let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
            connections(builder, options.connect_timeout)
        });
        let key = options.nvidia_key.as_ref().map(|key| {
            let words = zeroize::Zeroizing::new(format!("Bearer {}", key.reveal()));
            let mut value = HeaderValue::from_str(&words)
                .map_err(|_| OptionsError::Key("it has characters that no HTTP header can have"))?;
            value.set_sensitive(true);
            Ok::<_, OptionsError>(value)
        });
        Ok(Self { public, pccs, nvidia_key: key.transpose()?, timeout: options.fetch_timeout })
    }

    /// The answer, in the form that verifiers read.
    pub(crate) async fn fetch(&self, route: &Route) -> Result<Bytes, Failure> {
        let told = timeout(self.timeout, self.ask(route)).await.unwrap_or_else(|_| {
            Err((Kind::Away, format!("there was no whole answer within {:.1} s", self.timeout.as_secs_f32())))
        });
        told.map_err(|(kind, reason)| Failure { kind, reason: format!("{}: {reason}", route.service.name()) })
    }

    async fn ask(&self, route: &Route) -> Result<Bytes, (Kind, String)> {
        let request = match &route.post {
            Some(body) => Request::post(route.uri.clone())
                .header(CONTENT_TYPE, "application/ocsp-request")
                .body(Full::new(body.clone())),
            None => Request::get(route.uri.clone()).body(Full::default()),
        };
        let mut request = request.map_err(|error| (Kind::NotThis, error.to_string()))?;
        if let Some(key) = &self.nvidia_key
            && matches!(route.service, Service::Rim | Service::Ocsp)
            && route.uri.scheme() == Some(&Scheme::HTTPS)
        {
            request.headers_mut().insert(AUTHORIZATION, key.clone());
        }
        let at_pccs = matches!(route.service, Service::Pccs | Service::RootList);
        let client = self.pccs.as_ref().filter(|_| at_pccs).unwrap_or(&self.public);
        let response = client.request(request).await.map_err(|error| (Kind::Away, chain_of(&error)))?;
        read(response, route).await
    }
}

fn connections(
    builder: HttpsConnectorBuilder<hyper_rustls::builderstates::WantsProtocols2>,
    connect_timeout: Duration,
) -> Connections {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(connect_timeout));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_CONNECTION)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .http1_max_buf_size(MAX_HEAD_BYTES)
        .http1_max_headers(MAX_HEADERS)
        .build(builder.wrap_connector(connector))
}

async fn read(response: Response<Incoming>, route: &Route) -> Result<Bytes, (Kind, String)> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(told(head.status, &head.headers));
    }
    let body = Limited::new(body, MAX_ANSWER_LEN).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            (Kind::NotThis, format!("the answer has over {MAX_ANSWER_LEN} bytes"))
        } else {
            (Kind::Away, format!("the answer broke off: {}", chain_of(error.as_ref())))
        }
    })?;
    let body = without_pem(body.to_bytes());
    if route.chain_headers.is_empty() {
        return Ok(body);
    }
    let chain = route.chain_headers.iter().find_map(|name| head.headers.get(*name));
    let chain = chain.and_then(|chain| unescape(chain.as_bytes()));
    let chain = chain.ok_or_else(|| {
        let names = route.chain_headers.join(" or ");
        (Kind::NotThis, format!("the answer lacks its signer's chain in the header {names}"))
    })?;
    Ok(signed_answer(&chain, &body))
}

/// What a service means by a status.
fn told(status: StatusCode, headers: &HeaderMap) -> (Kind, String) {
    let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let retry_after = retry_after.map(Duration::from_secs);
    match status.as_u16() {
        code @ (429 | 503) => {
            (Kind::Busy(retry_after), format!("HTTP status {code}: it wants to be asked less"))
        }
        code @ 300..=399 => (
            Kind::NotThis,
            format!("HTTP status {code}: it sends us elsewhere; set the URL that it moved to"),
        ),
        404 => (Kind::NotThis, "HTTP status 404: it does not have this".to_owned()),
        code @ (401 | 403) => (Kind::NotThis, format!("HTTP status {code}: it does not let us in")),
        code @ 500.. => (Kind::Away, format!("HTTP status {code}: it fails")),
        code => (Kind::NotThis, format!("HTTP status {code}: it does not take the request")),
    }
}

/// Servers that do not know `encoding=der` answer with a revocation list in PEM.
fn without_pem(body: Bytes) -> Bytes {
    if !body.starts_with(b"-----BEGIN X509 CRL-----") {
        return body;
    }
    CertificateRevocationListDer::from_pem_slice(&body).map_or(body, |list| list.as_ref().to_vec().into())
}

/// Undoes percent-encoding (RFC 3986 §2.1); `None` where that or the text is broken.
fn unescape(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        let mut byte = [0];
        hex::decode_to_slice(digits, &mut byte).ok()?;
        bytes.extend(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// The error with what caused it.
fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::options::ApiKey;
    use crate::route::Routes;

    #[tokio::test]
    async fn an_ocsp_request_is_posted_and_the_key_stays_out_of_plain_text() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = FetcherOptions {
            nvidia_ocsp_url: format!("http://{}", listener.local_addr().unwrap()),
            nvidia_key: Some(ApiKey::new("secret".to_owned())),
            ..FetcherOptions::default()
        };
        let routes = Routes::new(&options).unwrap();
        let route = routes.find_named("nvidia_gpu", "ocsp/MAA", &[]).unwrap();
        let responder = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n\x30\x00") {
                request.push(tcp.read_u8().await.unwrap());
            }
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x30\x01\x00").await.unwrap();
            String::from_utf8(request).unwrap().to_lowercase()
        });
        let answer = Http::new(&options).unwrap().fetch(&route).await;
        assert_eq!(answer, Ok(Bytes::from_static(&[0x30, 1, 0])));
        let request = responder.await.unwrap();
        assert!(
            request.starts_with("post / http/1.1") && request.contains("application/ocsp-request"),
            "{request}"
        );
        assert!(!request.contains("secret"), "{request}");
        assert!(!format!("{options:?}").contains("secret"));
    }

    #[test]
    fn escapes_are_undone_and_broken_ones_refused() {
        assert_eq!(
            unescape(b"-----BEGIN%20X-----%0Aab%2B%2f+=%0A").as_deref(),
            Some("-----BEGIN X-----\nab+/+=\n")
        );
        for broken in [&b"%"[..], b"a%2", b"%zz", b"%ff", b"%+1"] {
            assert_eq!(unescape(broken), None, "{}", broken.escape_ascii());
        }
    }

    #[test]
    fn statuses_say_whether_the_service_or_only_the_answer_is_missing() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("10"));
        for (status, kind) in [
            (429, Kind::Busy(Some(Duration::from_secs(10)))),
            (503, Kind::Busy(Some(Duration::from_secs(10)))),
            (500, Kind::Away),
            (404, Kind::NotThis),
            (400, Kind::NotThis),
            (302, Kind::NotThis),
            (204, Kind::NotThis),
        ] {
            let status = StatusCode::from_u16(status).unwrap_or_default();
            assert_eq!(told(status, &headers).0, kind, "{status}");
        }
        headers.insert(RETRY_AFTER, HeaderValue::from_static("Fri, 31 Dec 1999 23:59:59 GMT"));
        assert_eq!(told(StatusCode::TOO_MANY_REQUESTS, &headers).0, Kind::Busy(None));
    }
}
