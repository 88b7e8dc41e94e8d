//! The market as a page for people: one file, nothing from elsewhere, readable without a program in it.

use std::fmt::{self, Write as _};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::{ModelReport, OfferReport, Report};

/// Offers of one model on the page; /v1/market has the others.
const SHOWN_PER_MODEL: usize = 200;

const STYLE: &str = include_str!("page.css");
/// Puts the newest tables in place every five seconds. Without it the page stays as it came.
const SCRIPT: &str = include_str!("page.js");

/// What the page may do: show itself, and ask its own server.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// The page, and its content security policy.
pub(crate) fn html(report: &Report) -> (String, &'static str) {
    let mut page = String::new();
    // Writing to a String does not fail.
    let _ = write_page(&mut page, report);
    (page, &POLICY)
}

/// Text that means itself in HTML, attributes included.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // A name may try to turn the text around it.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}')?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

fn write_page(page: &mut String, report: &Report) -> fmt::Result {
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>Cocoon market</title>\
         <style>{STYLE}</style></head><body><header><h1>Market</h1>\
         <p>Who offers what at this moment, at which price, and how it has done. \
         <a href=\"/v1/market\">As JSON</a></p></header><main id=\"market\">"
    )?;
    if report.models.is_empty() {
        page.push_str("<p class=\"none\">No worker offers anything at the moment.</p>");
    }
    for model in &report.models {
        write_model(page, model)?;
    }
    write_proxies(page, report)?;
    writeln!(page, "</main><script>{SCRIPT}</script></body></html>")
}

fn write_model(page: &mut String, model: &ModelReport) -> fmt::Result {
    write!(
        page,
        "<section><h2>{}</h2><p>{} worker{}, {} of {} places taken{}</p>",
        Escaped(&model.id),
        model.workers,
        if model.workers == 1 { "" } else { "s" },
        model.active,
        model.capacity,
        if model.insecure {
            ". <strong class=\"bad\">Not all of it is proven: insecure</strong>"
        } else {
            ""
        },
    )?;
    if !model.abilities.is_empty() {
        write!(page, "<p class=\"abilities\">Can do: {}</p>", model.abilities.join(", "))?;
    }
    page.push_str(
        "<div class=\"wide\"><table><thead><tr><th rowspan=\"2\">Worker</th><th rowspan=\"2\">Proxy</th>\
         <th rowspan=\"2\" class=\"n\">Coefficient</th><th colspan=\"4\">TON per million tokens</th>\
         <th rowspan=\"2\" class=\"n\">Load</th><th rowspan=\"2\" class=\"n\">First byte</th>\
         <th rowspan=\"2\" class=\"n\">Tokens/s</th><th rowspan=\"2\" class=\"n\">Success</th>\
         <th rowspan=\"2\" class=\"n\">Requests</th><th rowspan=\"2\">Evidence</th></tr>\
         <tr><th class=\"n\">Prompt</th><th class=\"n\">Cached</th><th class=\"n\">Completion</th>\
         <th class=\"n\">Reasoning</th></tr></thead><tbody>",
    );
    for offer in model.offers.iter().take(SHOWN_PER_MODEL) {
        write_offer(page, offer)?;
    }
    page.push_str("</tbody></table></div>");
    let left = model.workers.saturating_sub(SHOWN_PER_MODEL.min(model.offers.len()));
    if left > 0 {
        write!(page, "<p>And {left} more, in <a href=\"/v1/market\">the JSON</a>.</p>")?;
    }
    page.push_str("</section>");
    Ok(())
}

fn write_offer(page: &mut String, offer: &OfferReport) -> fmt::Result {
    page.push_str("<tr><td>");
    match &offer.worker {
        Some(worker) => {
            write!(page, "<a href=\"/v1/attestation/{worker}\"><code>{}</code></a>", short(worker))?
        }
        None => page.push_str("not named"),
    }
    let proxy = &offer.proxy;
    write!(
        page,
        "</td><td><a href=\"/v1/attestation/{proxy}\"><code>{}</code></a></td><td class=\"n\">{}</td>",
        short(proxy),
        offer.coefficient
    )?;
    let prices = offer.price.map(|price| {
        [
            price.prompt_nanoton_per_million,
            price.cached_nanoton_per_million,
            price.completion_nanoton_per_million,
            price.reasoning_nanoton_per_million,
        ]
    });
    for class in 0..4 {
        let price = prices.and_then(|prices| prices.get(class).copied());
        write!(page, "<td class=\"n\">{}</td>", Cell(price.map(ton)))?;
    }
    write!(
        page,
        "<td class=\"n\">{}/{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
         <td class=\"n\">{}</td><td>{}{}{}</td></tr>",
        offer.active,
        offer.capacity,
        Cell(offer.first_byte_ms.map(|ms| format!("{ms:.0} ms"))),
        Cell(offer.tokens_per_second.map(|speed| format!("{speed:.1}"))),
        Cell(offer.success_rate.map(|rate| format!("{:.1} %", rate * 100.0))),
        Cell(offer.requests),
        offer.attestation,
        offer.verified_by.map_or_else(String::new, |by| format!(" (by the {by})")),
        if offer.insecure { " <strong class=\"bad\">insecure</strong>" } else { "" },
    )
}

fn write_proxies(page: &mut String, report: &Report) -> fmt::Result {
    page.push_str("<section><h2>Proxies</h2><ul>");
    for proxy in &report.proxies {
        write!(
            page,
            "<li><a href=\"/v1/attestation/{0}\"><code>{1}</code></a>, evidence: {2}{3}; {4}{5}</li>",
            proxy.fingerprint,
            short(&proxy.fingerprint),
            proxy.attestation,
            if proxy.insecure { " <strong class=\"bad\">insecure</strong>" } else { "" },
            match proxy.age_ms {
                Some(ms) => format!("told {:.1} s ago", std::time::Duration::from_millis(ms).as_secs_f64()),
                None => "tells prices only".to_owned(),
            },
            if proxy.truncated { ", not everything" } else { "" },
        )?;
    }
    page.push_str("</ul>");
    if report.truncated {
        page.push_str("<p>There is more than is shown.</p>");
    }
    page.push_str(
        "<p class=\"small\">First byte, tokens per second and success are what the proxy measured lately. Prices are \
         for a million tokens of each class.</p></section>",
    );
    Ok(())
}

/// A value, or a dash.
struct Cell<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Cell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("–"),
        }
    }
}

/// The first digits of a fingerprint.
fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

/// Nanoton as TON, exactly.
fn ton(nano: u64) -> String {
    let text = format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{OfferReport, ProxyReport, summed_up};
    use super::*;
    use cocoon_ledger::{Multiplier, PricePerToken, Tariff};

    fn tariff() -> Tariff {
        Tariff {
            price_per_token: PricePerToken(20),
            worker_fee_per_token: PricePerToken(10),
            prompt: Multiplier::ONE,
            cached: Multiplier(1000),
            completion: Multiplier(40_000),
            reasoning: Multiplier::ONE,
        }
    }

    fn offer(coefficient: u32) -> OfferReport {
        OfferReport {
            worker: Some("ab".repeat(32)),
            proxy: "cd".repeat(32),
            price: crate::models::price(coefficient, &tariff()),
            coefficient,
            active: 1,
            capacity: 8,
            first_byte_ms: Some(123.4),
            tokens_per_second: None,
            success_rate: Some(0.987),
            requests: Some(42),
            abilities: None,
            ability_bits: 1,
            attestation: "tdx",
            verified_by: Some("gateway"),
            insecure: false,
        }
    }

    fn report(id: &str, offers: Vec<OfferReport>) -> Report {
        let proxies = vec![ProxyReport {
            fingerprint: "cd".repeat(32),
            attestation: "none",
            insecure: true,
            measured: true,
            age_ms: Some(1200),
            truncated: false,
        }];
        let models = vec![summed_up(id.to_owned(), offers, &tariff())];
        Report { object: "market", generated_unix_ms: 0, models, proxies, truncated: false }
    }

    #[test]
    fn the_page_shows_what_an_offer_says() {
        let (page, policy) = html(&report("llama", vec![offer(1500)]));
        for shown in
            ["llama", "abababababab", "1500", "0.03<", "0.12<", "1/8", "123 ms", "98.7 %", "42", "tdx"]
        {
            assert!(page.contains(shown), "{shown} is not in {page}");
        }
        assert!(!page.contains("http://") && !page.contains("https://"), "nothing comes from elsewhere");
        assert!(policy.starts_with("default-src 'none'"));
    }

    #[test]
    fn no_name_gets_out_of_its_place() {
        let (page, _) = html(&report("<script>alert(1)</script>\"'&\u{202e}", vec![offer(1000)]));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;\u{fffd}"), "{page}");
        assert_eq!(page.matches("<script>").count(), 1);
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let (page, _) = html(&report("m", (0..300).map(offer).collect()));
        assert_eq!(page.matches("<tr><td>").count(), SHOWN_PER_MODEL);
        assert!(page.contains("And 100 more"));
    }

    #[test]
    fn amounts_are_exact() {
        assert_eq!(
            (ton(0).as_str(), ton(1).as_str(), ton(1_500_000_000).as_str()),
            ("0", "0.000000001", "1.5")
        );
    }
}
