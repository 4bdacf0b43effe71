//! Who may POST: not a page of another site in the browser of somebody who may.

/// Why a request to `host` that has this header may not.
///
/// Each header is judged by itself, and a request by all of them: one that is repeated hides nothing.
pub(super) fn refusal(host: Option<&[u8]>, name: &[u8], value: &[u8]) -> Option<&'static str> {
    let is = |it: &str| name.eq_ignore_ascii_case(it.as_bytes());
    if is("sec-fetch-site") {
        (!matches!(value, b"same-origin" | b"none")).then_some("cross-site request")
    } else if is("origin") {
        (!is_own(value, host)).then_some("\"Origin\" is not this host")
    } else if is("content-type") {
        // What a form of any site can send without asking first.
        is_form(value).then_some("content type of a form")
    } else {
        None
    }
}

fn is_own(origin: &[u8], host: Option<&[u8]>) -> bool {
    let origin = origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"));
    match (origin, host) {
        (Some(origin), Some(host)) => !host.is_empty() && origin.eq_ignore_ascii_case(host),
        _ => false,
    }
}

fn is_form(content_type: &[u8]) -> bool {
    let end = content_type.iter().position(|byte| *byte == b';').unwrap_or(content_type.len());
    let name = content_type.get(..end).unwrap_or_default().trim_ascii();
    ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"]
        .iter()
        .any(|form| name.eq_ignore_ascii_case(form.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str, name: &str, value: &str) -> bool {
        refusal(Some(host.as_bytes()), name.as_bytes(), value.as_bytes()).is_some()
    }

    #[test]
    fn a_tool_may() {
        assert!(!refused("a", "Content-Type", "application/json"));
        assert!(!refused("a", "Referer", "http://evil.example/"));
    }

    #[test]
    fn the_own_page_may() {
        for (name, value) in [
            ("Origin", "http://web1:8080"),
            ("Sec-Fetch-Site", "same-origin"),
            ("sec-fetch-site", "none"),
        ] {
            assert!(!refused("Web1:8080", name, value), "{name}: {value}");
        }
    }

    #[test]
    fn another_origin_may_not() {
        for origin in
            ["http://web1:8081", "http://evil.example", "null", "", "http://", "web1:8080"]
        {
            assert!(refused("web1:8080", "origin", origin), "{origin}");
        }
        assert!(refused("", "Origin", "http://"));
        assert!(refusal(None, b"Origin", b"http://web1:8080").is_some());
    }

    #[test]
    fn other_sites_may_not() {
        for site in ["cross-site", "same-site", "", "same-origin, none"] {
            assert!(refused("a", "SEC-FETCH-SITE", site), "{site}");
        }
        for form in [
            "application/x-www-form-urlencoded",
            "Multipart/Form-Data; boundary=x",
            "text/plain ; charset=utf-8",
        ] {
            assert!(refused("a", "content-type", form), "{form}");
        }
    }
}
