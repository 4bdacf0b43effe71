//! Who may POST: not a page of another site in the browser of somebody who may.

/// What a request says of where it comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Source<'a> {
    pub(super) host: Option<&'a [u8]>,
    pub(super) origin: Option<&'a [u8]>,
    pub(super) sec_fetch_site: Option<&'a [u8]>,
    pub(super) content_type: Option<&'a [u8]>,
}

impl Source<'_> {
    /// Why it may not.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        if let Some(site) = self.sec_fetch_site
            && !matches!(site, b"same-origin" | b"none")
        {
            return Some("cross-site request");
        }
        if let Some(origin) = self.origin
            && !self.is_own(origin)
        {
            return Some("\"Origin\" is not this host");
        }
        // What a form of any site can send without asking first.
        self.content_type.filter(|it| is_form(it)).map(|_| "content type of a form")
    }

    fn is_own(&self, origin: &[u8]) -> bool {
        let origin = origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"));
        match (origin, self.host) {
            (Some(origin), Some(host)) => !host.is_empty() && origin.eq_ignore_ascii_case(host),
            _ => false,
        }
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

    fn refused(source: Source<'_>) -> bool {
        source.refusal().is_some()
    }

    #[test]
    fn a_tool_that_says_nothing_may() {
        assert!(!refused(Source::default()));
        assert!(!refused(Source { host: Some(b"a"), ..Source::default() }));
        let json = Some(b"application/json".as_slice());
        assert!(!refused(Source { content_type: json, ..Source::default() }));
    }

    #[test]
    fn the_own_page_may() {
        let own = Source {
            host: Some(b"Web1:8080"),
            origin: Some(b"http://web1:8080"),
            sec_fetch_site: Some(b"same-origin"),
            content_type: None,
        };
        assert!(!refused(own));
        assert!(refused(Source { origin: Some(b"http://web1:8081"), ..own }));
        assert!(refused(Source { origin: Some(b"http://evil.example"), ..own }));
        assert!(refused(Source { origin: Some(b"null"), ..own }));
        assert!(refused(Source { origin: Some(b"http://"), host: Some(b""), ..own }));
        assert!(refused(Source { host: None, ..own }));
    }

    #[test]
    fn other_sites_may_not() {
        for site in [b"cross-site".as_slice(), b"same-site", b""] {
            assert!(refused(Source { sec_fetch_site: Some(site), ..Source::default() }));
        }
        for form in [
            "application/x-www-form-urlencoded",
            "Multipart/Form-Data; boundary=x",
            "text/plain ; charset=utf-8",
        ] {
            let content_type = Some(form.as_bytes());
            assert!(refused(Source { content_type, ..Source::default() }), "{form}");
        }
    }
}
