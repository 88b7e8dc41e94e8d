//! Which request goes to which service, and what the answer is like: a table.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use cocoon_attest::tdx::collateral;
use cocoon_attest::{CollateralRequest, UnixSeconds, gpu, snp};
use http::Uri;
use http::uri::{PathAndQuery, Scheme};

use crate::options::{FetcherOptions, OptionsError};

/// Intel's Provisioning Certification Service ("Intel SGX and Intel TDX Provisioning Certification Service API
/// documentation", version 4).
pub const INTEL_PCS: &str = "https://api.trustedservices.intel.com";
/// Where Intel publishes the revocation list of its root, in DER (the distribution point in the root's certificate).
pub const INTEL_ROOT_CRL: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";
/// AMD's Key Distribution Service (AMD 57230, chapter 4).
pub const KDS: &str = "https://kdsintf.amd.com";
/// NVIDIA's RIM service (NVIDIA Attestation, "RIM Service, API documentation").
pub const NVIDIA_RIM: &str = "https://rim.attestation.nvidia.com";
/// NVIDIA's OCSP responder (NVIDIA Attestation, "OCSP Service, API documentation").
pub const NVIDIA_OCSP: &str = "https://ocsp.ndis.nvidia.com";

/// Longest name of a request that is looked at, bytes. OCSP requests are the longest, about 200.
pub(crate) const MAX_NAME_LEN: usize = 2048;
/// Names of requests about NVIDIA's GPUs begin so, by kind.
const NVIDIA: &str = "nvidia_gpu";
const ROOT_LIST: &str = "sgx/certification/v4/rootcacrl";
const DAY: u64 = 86_400;
/// How long reference measurements count as current. They are signed for good.
const RIM_KEPT_SECONDS: u64 = 7 * DAY;
/// How long an OCSP answer counts as current.
const OCSP_KEPT_SECONDS: u64 = 3_600;
/// The next answer is fetched when less than this is left, or a quarter of the time, if that is less.
const RENEWED_BEFORE_SECONDS: u64 = 7 * DAY;
/// The same for certificates, which hardly ever change.
const CERTIFICATE_RENEWED_BEFORE_SECONDS: u64 = 30 * DAY;
/// The shortest time between two fetches of what still holds.
const RENEWAL_PAUSE_SECONDS: u64 = 600;

/// The services, and how gently each is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Pccs,
    RootList,
    Kds,
    Rim,
    Ocsp,
}

impl Service {
    pub(crate) const ALL: [Self; 5] = [Self::Pccs, Self::RootList, Self::Kds, Self::Rim, Self::Ocsp];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Pccs => 0,
            Self::RootList => 1,
            Self::Kds => 2,
            Self::Rim => 3,
            Self::Ocsp => 4,
        }
    }

    /// As people know it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pccs => "the PCCS",
            Self::RootList => "the root list's server",
            Self::Kds => "AMD's KDS",
            Self::Rim => "NVIDIA's RIM service",
            Self::Ocsp => "NVIDIA's OCSP responder",
        }
    }

    /// Exchanges at a time. The KDS turns away those who ask for several things at once.
    pub(crate) fn places(self) -> usize {
        match self {
            Self::Kds => 1,
            Self::Pccs | Self::RootList | Self::Rim | Self::Ocsp => 4,
        }
    }

    /// Fetches in a minute. What is asked for follows from what strangers show us.
    pub(crate) fn fetches_a_minute(self) -> u32 {
        match self {
            Self::RootList | Self::Kds => 30,
            Self::Pccs | Self::Rim => 120,
            // Each GPU's certificates, one by one.
            Self::Ocsp => 1_200,
        }
    }
}

/// How a request is put.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// The name is path and query.
    Get,
    /// What follows the prefix belongs behind this path.
    GetUnder(&'static str),
    /// A fixed URL.
    GetThere,
    /// What follows the prefix is the body, in base64url without padding.
    Post,
}

/// Whether the next answer is worth fetching long before this one runs out.
#[derive(Debug, Clone, Copy)]
enum Renewal {
    /// It may say something new any day: who is revoked, which platforms have fallen behind.
    EveryDay,
    /// It stays what it is.
    Late,
}

/// When an answer fetched at that time runs out; `None` if it is not what was asked for.
type RunsOut = fn(&[u8], UnixSeconds) -> Option<UnixSeconds>;

struct Rule {
    kind: &'static str,
    prefix: &'static str,
    service: Service,
    form: Form,
    renewal: Renewal,
    runs_out: RunsOut,
}

const fn rule(
    (kind, prefix): (&'static str, &'static str),
    service: Service,
    form: Form,
    renewal: Renewal,
    runs_out: RunsOut,
) -> Rule {
    Rule { kind, prefix, service, form, renewal, runs_out }
}

/// The first that fits counts.
const RULES: &[Rule] = &[
    rule(("tdx", ROOT_LIST), Service::RootList, Form::GetThere, Renewal::EveryDay, tdx_runs_out),
    rule(("tdx", "sgx/certification/v4/"), Service::Pccs, Form::Get, Renewal::EveryDay, tdx_runs_out),
    rule(("tdx", "tdx/certification/v4/"), Service::Pccs, Form::Get, Renewal::EveryDay, tdx_runs_out),
    rule(("sev_snp", "vcek/v1/"), Service::Kds, Form::Get, Renewal::Late, snp_runs_out),
    rule(("sev_snp", "vlek/v1/"), Service::Kds, Form::Get, Renewal::Late, snp_runs_out),
    rule((NVIDIA, "rim/v1/"), Service::Rim, Form::GetUnder("v1/rim/"), Renewal::EveryDay, rim_runs_out),
    rule((NVIDIA, "rim/"), Service::Rim, Form::GetUnder("v1/rim/"), Renewal::EveryDay, rim_runs_out),
    rule((NVIDIA, "ocsp/"), Service::Ocsp, Form::Post, Renewal::EveryDay, ocsp_runs_out),
];

fn tdx_runs_out(answer: &[u8], _: UnixSeconds) -> Option<UnixSeconds> {
    collateral::runs_out(answer)
}

fn snp_runs_out(answer: &[u8], _: UnixSeconds) -> Option<UnixSeconds> {
    snp::runs_out(answer)
}

/// The service wraps a manifest in JSON; a mirror may have the manifest itself.
fn rim_runs_out(answer: &[u8], fetched_at: UnixSeconds) -> Option<UnixSeconds> {
    Some(gpu::manifest_runs_out(answer)?.min(fetched_at.plus(RIM_KEPT_SECONDS)))
}

fn ocsp_runs_out(answer: &[u8], fetched_at: UnixSeconds) -> Option<UnixSeconds> {
    Some(gpu::status_runs_out(answer)?.min(fetched_at.plus(OCSP_KEPT_SECONDS)))
}

/// How one request is answered.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) service: Service,
    pub(crate) uri: Uri,
    /// The body, where it is a POST.
    pub(crate) post: Option<Bytes>,
    /// The headers that may have the signer's chain; none where there is no such.
    pub(crate) chain_headers: &'static [&'static str],
    renewal: Renewal,
    runs_out: RunsOut,
}

impl Route {
    /// To a service for reference measurements whose every answer is taken, and kept for a week.
    #[cfg(test)]
    pub(crate) fn that_takes_anything() -> Self {
        Self {
            service: Service::Rim,
            uri: Uri::from_static(NVIDIA_RIM),
            post: None,
            chain_headers: &[],
            renewal: Renewal::EveryDay,
            runs_out: |_, fetched_at| Some(fetched_at.plus(RIM_KEPT_SECONDS)),
        }
    }

    /// When an answer runs out, and when the next one should be fetched; `None` if it is not what was asked for.
    pub(crate) fn life(&self, answer: &[u8], fetched_at: UnixSeconds) -> Option<(UnixSeconds, UnixSeconds)> {
        let expires = (self.runs_out)(answer, fetched_at)?;
        let quarter = expires.0.saturating_sub(fetched_at.0) / 4;
        let at = match self.renewal {
            Renewal::EveryDay => {
                (expires.0 - quarter.min(RENEWED_BEFORE_SECONDS)).min(fetched_at.0.saturating_add(DAY))
            }
            Renewal::Late => expires.0 - quarter.min(CERTIFICATE_RENEWED_BEFORE_SECONDS),
        };
        Some((expires, UnixSeconds(at).max(fetched_at.plus(RENEWAL_PAUSE_SECONDS))))
    }
}

/// The table with an operator's services.
#[derive(Debug)]
pub(crate) struct Routes {
    /// By [`Service::index`].
    bases: [Uri; 5],
}

impl Routes {
    pub(crate) fn new(options: &FetcherOptions) -> Result<Self, OptionsError> {
        let pccs = base("the URL of the PCS or PCCS", &options.pccs_url, "/sgx/certification/v4")?;
        let is_intels = pccs.host().is_some_and(|host| host.ends_with(".trustedservices.intel.com"));
        let root_list = match &options.root_crl_url {
            Some(url) => base("the URL of the root's revocation list", url, "")?,
            None if is_intels => base("", INTEL_ROOT_CRL, "")?,
            None => joined(&pccs, ROOT_LIST).ok_or(wrong("the URL of the PCCS", HINT))?,
        };
        let kds = base("the URL of AMD's KDS", &options.kds_url, "")?;
        let rim = base("the URL of NVIDIA's RIM service", &options.nvidia_rim_url, "/v1/rim")?;
        let ocsp = base("the URL of NVIDIA's OCSP responder", &options.nvidia_ocsp_url, "")?;
        Ok(Self { bases: [pccs, root_list, kds, rim, ocsp] })
    }

    /// How to answer a request; `None` where nobody can.
    pub(crate) fn find(&self, request: &CollateralRequest) -> Option<Route> {
        self.find_named(request.kind.name(), &request.name, collateral::issuer_chain_headers(request))
    }

    pub(crate) fn find_named(
        &self,
        kind: &str,
        name: &str,
        chain_headers: &'static [&'static str],
    ) -> Option<Route> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-.?&=%+".contains(&byte);
        if name.len() > MAX_NAME_LEN || !name.bytes().all(plain) || name.contains("..") {
            return None;
        }
        let rule = RULES.iter().find(|rule| rule.kind == kind && name.starts_with(rule.prefix))?;
        let rest = name.get(rule.prefix.len()..)?;
        let base = &self.bases[rule.service.index()];
        let mut post = None;
        let uri = match rule.form {
            Form::Get => joined(base, name)?,
            Form::GetUnder(path) => joined(base, &format!("{path}{rest}"))?,
            Form::GetThere => base.clone(),
            Form::Post => {
                post = Some(URL_SAFE_NO_PAD.decode(rest.trim_end_matches('=')).ok()?.into());
                base.clone()
            }
        };
        let (service, renewal, runs_out) = (rule.service, rule.renewal, rule.runs_out);
        // A list of AMD's is as good as news; only certificates stay.
        let renewal = if name.ends_with("/crl") { Renewal::EveryDay } else { renewal };
        Some(Route { service, uri, post, chain_headers, renewal, runs_out })
    }
}

const HINT: &str = "write https://HOST or https://HOST:PORT, without user, query or fragment";

fn wrong(what: &'static str, hint: &'static str) -> OptionsError {
    OptionsError::Url { what, hint }
}

/// Reads a URL; what `tail` adds to the path of a service is dropped where people wrote it along.
fn base(what: &'static str, text: &str, tail: &str) -> Result<Uri, OptionsError> {
    if text.contains('#') {
        return Err(wrong(what, HINT));
    }
    let uri: Uri = text.trim().parse().map_err(|_| wrong(what, HINT))?;
    let scheme = uri.scheme().filter(|scheme| [&Scheme::HTTP, &Scheme::HTTPS].contains(scheme));
    let (Some(scheme), Some(authority)) = (scheme, uri.authority()) else {
        return Err(wrong(what, HINT));
    };
    if authority.as_str().contains('@') || authority.host().is_empty() || uri.query().is_some() {
        return Err(wrong(what, HINT));
    }
    let path = uri.path().trim_end_matches('/');
    let path = path.strip_suffix(tail).unwrap_or(path);
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority.clone());
    let path = if path.is_empty() { "/" } else { path };
    parts.path_and_query = Some(path.parse().map_err(|_| wrong(what, HINT))?);
    Uri::from_parts(parts).map_err(|_| wrong(what, HINT))
}

fn joined(base: &Uri, path_and_query: &str) -> Option<Uri> {
    let path = format!("{}/{path_and_query}", base.path().trim_end_matches('/'));
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(path.parse::<PathAndQuery>().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cocoon_attest::Collateral;
    use cocoon_tee::simulated::nvidia::SimulatedNvidia;

    use super::*;

    fn routes(change: impl FnOnce(&mut FetcherOptions)) -> Routes {
        let mut options = FetcherOptions::default();
        change(&mut options);
        Routes::new(&options).unwrap()
    }

    fn url(routes: &Routes, kind: &str, name: &str) -> Option<String> {
        Some(routes.find_named(kind, name, &[])?.uri.to_string())
    }

    #[test]
    fn every_name_that_verifiers_use_has_its_place_at_the_vendors() {
        let vendors = routes(|_| ());
        for (kind, name, expected) in [
            ("tdx", ROOT_LIST, INTEL_ROOT_CRL),
            (
                "tdx",
                "sgx/certification/v4/pckcrl?ca=platform&encoding=der",
                "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            ),
            (
                "tdx",
                "tdx/certification/v4/tcb?fmspc=00806F050000",
                "https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=00806F050000",
            ),
            ("sev_snp", "vcek/v1/Genoa/crl", "https://kdsintf.amd.com/vcek/v1/Genoa/crl"),
            ("sev_snp", "vlek/v1/Milan/cert_chain", "https://kdsintf.amd.com/vlek/v1/Milan/cert_chain"),
            (
                NVIDIA,
                "rim/v1/NV_GPU_DRIVER_GH100_535.104.05",
                "https://rim.attestation.nvidia.com/v1/rim/NV_GPU_DRIVER_GH100_535.104.05",
            ),
            (NVIDIA, "rim/X", "https://rim.attestation.nvidia.com/v1/rim/X"),
            (NVIDIA, "ocsp/MAA", "https://ocsp.ndis.nvidia.com/"),
        ] {
            assert_eq!(url(&vendors, kind, name).as_deref(), Some(expected), "{kind} {name}");
        }
    }

    #[test]
    fn the_root_list_is_at_a_pccs_unless_set_apart() {
        for written in ["https://localhost:8081", "https://localhost:8081/sgx/certification/v4/"] {
            let own = routes(|options| options.pccs_url = written.to_owned());
            let there = "https://localhost:8081/sgx/certification/v4/rootcacrl";
            assert_eq!(url(&own, "tdx", ROOT_LIST).as_deref(), Some(there));
        }
        let apart = routes(|options| {
            options.pccs_url = "http://cache.example/behind/".to_owned();
            options.root_crl_url = Some(INTEL_ROOT_CRL.to_owned());
        });
        assert_eq!(url(&apart, "tdx", ROOT_LIST).as_deref(), Some(INTEL_ROOT_CRL));
        let identity = "http://cache.example/behind/tdx/certification/v4/qe/identity";
        assert_eq!(url(&apart, "tdx", "tdx/certification/v4/qe/identity").as_deref(), Some(identity));
    }

    #[test]
    fn an_ocsp_request_travels_as_the_body_of_a_post() {
        let name = format!("ocsp/{}", URL_SAFE_NO_PAD.encode([0x30, 0xff, 0xfe]));
        let route = routes(|_| ()).find_named(NVIDIA, &name, &[]).unwrap();
        assert_eq!(route.post.as_deref(), Some(&[0x30, 0xff, 0xfe][..]));
        assert!(routes(|_| ()).find_named(NVIDIA, "ocsp/a", &[]).is_none(), "not base64");
    }

    #[test]
    fn what_is_no_plain_name_goes_nowhere() {
        let vendors = routes(|_| ());
        let long = format!("vcek/v1/{}", "a".repeat(MAX_NAME_LEN));
        for (kind, name) in [
            ("tdx", "vcek/v1/Genoa/crl"),
            ("none", ROOT_LIST),
            ("sev_snp", "vcek/v1/../../etc"),
            ("sev_snp", "vcek/v1/a b"),
            ("sev_snp", "vcek/v1/a\r\nb"),
            ("sev_snp", "vcek/v1/a#b"),
            ("sev_snp", long.as_str()),
            ("sev_snp", ""),
        ] {
            assert_eq!(url(&vendors, kind, name), None, "{kind} {name}");
        }
    }

    #[test]
    fn what_is_no_plain_url_is_refused_with_a_hint() {
        for wrong in
            ["", "localhost:8081", "ftp://a", "https://", "https://u:p@a", "https://a?b", "https://a#b"]
        {
            let options = FetcherOptions { pccs_url: wrong.to_owned(), ..FetcherOptions::default() };
            let error = Routes::new(&options).unwrap_err().to_string();
            assert!(error.contains("PCCS") && error.contains("https://HOST"), "{wrong}: {error}");
        }
    }

    #[test]
    fn the_next_answer_is_fetched_before_this_one_runs_out() {
        let route = |kind, name| routes(|_| ()).find_named(kind, name, &[]).unwrap();
        let now = UnixSeconds(1_795_228_887);
        let (manifest, status) = nvidias(now);
        let rim = route(NVIDIA, "rim/X").life(&manifest, now).unwrap();
        assert_eq!(rim, (now.plus(RIM_KEPT_SECONDS), now.plus(DAY)));
        let ocsp = route(NVIDIA, "ocsp/MAA").life(&status, now).unwrap();
        assert_eq!(ocsp, (now.plus(3_600), now.plus(2_700)));
        // It lasts a day by itself, from when it was made.
        let late = now.plus(86_400 - 1_800);
        let ocsp = route(NVIDIA, "ocsp/MAA").life(&status, late).unwrap();
        assert_eq!(ocsp, (now.plus(86_400), late.plus(1_350)));
    }

    /// A manifest and a status of a simulated NVIDIA.
    fn nvidias(now: UnixSeconds) -> (Bytes, Bytes) {
        let nvidia = SimulatedNvidia::from_seed(&[7; 32]);
        let part = nvidia.gpu(0).part(&[1; 32]);
        let gpus = gpu::GpuEvidence::new(vec![part]).unwrap().write().unwrap();
        let verifier = gpu::GpuVerifier::with_roots(gpu::GpuPolicy::default(), nvidia.roots());
        let requests = verifier.collateral_needed(&gpus, &Collateral::none());
        let answers = nvidia.collateral(&requests, now);
        let of = |prefix| answers.iter().find(|(request, _)| request.name.starts_with(prefix)).unwrap().1;
        (of("rim/").clone(), of("ocsp/").clone())
    }

    #[test]
    fn no_rule_takes_what_was_not_asked_for() {
        let now = UnixSeconds(1_795_228_887);
        let (manifest, status) = nvidias(now);
        // `tryLater` and `unauthorized` (RFC 6960 §4.2.1).
        let refusals: [&[u8]; 2] = [&[0x30, 3, 0x0a, 1, 3], &[0x30, 3, 0x0a, 1, 6]];
        let odd: [&[u8]; 7] = [
            b"",
            b"<html>",
            b"{}",
            b"{\"error\":\"not now\"}",
            b"<?xml version=\"1.0\"?><SoftwareIdentity>",
            &[0x30, 0],
            &manifest[..manifest.len() - 1],
        ];
        let names = [
            ("tdx", ROOT_LIST),
            ("sev_snp", "vcek/v1/Genoa/crl"),
            (NVIDIA, "rim/X"),
            (NVIDIA, "rim/v1/X"),
            (NVIDIA, "ocsp/MAA"),
        ];
        for (kind, name) in names {
            let route = routes(|_| ()).find_named(kind, name, &[]).unwrap();
            for answer in odd.iter().chain(&refusals) {
                assert_eq!(route.life(answer, now), None, "{kind} {name}: {answer:?}");
            }
            assert_eq!(route.life(&manifest, now).is_some(), name.starts_with("rim"), "{name}");
            assert_eq!(route.life(&status, now).is_some(), name.starts_with("ocsp"), "{name}");
        }
    }
}
