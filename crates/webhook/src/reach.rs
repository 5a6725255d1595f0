//! Where webhooks may go: by the address as it is written, and by what its name means at the moment.

use std::net::IpAddr;

use reqwest::Url;

use crate::limits::URL_CHARS_MAX;
use crate::network::{Network, is_global};

/// What the operator allows beside `https` into the internet.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Also without encryption.
    pub insecure_http: bool,
    /// Also into these, global or not.
    pub networks: Vec<Network>,
}

/// Why nothing is sent there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it is no URL, as https://example.org/hook")]
    NoUrl,
    #[error("it has more than {URL_CHARS_MAX} characters")]
    TooLong,
    #[error("it does not begin with https://")]
    NotHttps,
    #[error("it has a user or password in it; receivers know a delivery by its signature")]
    Credentials,
    #[error("its host has no address that webhooks may go to")]
    Address,
}

impl Reach {
    /// What can be told without looking up its name.
    pub fn check(&self, url: &str) -> Result<(), Refused> {
        self.parse(url).map(drop)
    }

    pub(crate) fn parse(&self, text: &str) -> Result<Url, Refused> {
        if text.chars().count() > URL_CHARS_MAX {
            return Err(Refused::TooLong);
        }
        let url = Url::parse(text).map_err(|_| Refused::NoUrl)?;
        match url.scheme() {
            "https" => {}
            "http" if self.insecure_http => {}
            _ => return Err(Refused::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(Refused::NoUrl)?;
        // an address is no name, so that no resolver would see it; whatever its spelling, here it is in its plain one
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) if !self.allows(address) => Err(Refused::Address),
            _ => Ok(url),
        }
    }

    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        is_global(address) || self.networks.iter().any(|network| network.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Reach {
        Reach { insecure_http: true, networks: Vec::new() }
    }

    #[test]
    fn an_address_is_refused_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.0.1.",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "017700000001",
            "0",
            "0.0.0.0",
            "127.0.0.1%2e",
            "①②⑦.⓪.⓪.①",
            "127。0。0。1",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "10.0.0.1",
            "192.168.1",
            "100.100.100.200",
            "255.255.255.255",
        ] {
            for scheme in ["http", "https"] {
                for port in ["", ":8443"] {
                    let url = format!("{scheme}://{host}{port}/hook");
                    assert_eq!(open().check(&url), Err(Refused::Address), "{url}");
                }
            }
        }
        for host in ["8.8.8.8", "[2606:4700::1111]", "example.org", "example.org.", "localhost", "xn--nxasmq6b"] {
            assert_eq!(open().check(&format!("https://{host}:1/hook?token=a")), Ok(()), "{host}");
        }
    }

    #[test]
    fn only_plain_addresses_of_the_web_are_taken() {
        let long = format!("https://example.org/{}", "a".repeat(URL_CHARS_MAX));
        for (url, refused) in [
            ("", Refused::NoUrl),
            ("example.org", Refused::NoUrl),
            ("https://", Refused::NoUrl),
            ("https://[fe80::1%25eth0]/", Refused::NoUrl),
            ("https://1.2.3.4.5/", Refused::NoUrl),
            ("file:///etc/passwd", Refused::NotHttps),
            ("gopher://example.org/", Refused::NotHttps),
            ("http://example.org/", Refused::NotHttps),
            ("https://user@example.org/", Refused::Credentials),
            ("https://:secret@example.org/", Refused::Credentials),
            ("https://8.8.8.8@127.0.0.1/", Refused::Credentials),
            (&long, Refused::TooLong),
        ] {
            assert_eq!(Reach::default().check(url), Err(refused), "{url}");
        }
        assert_eq!(open().check("http://example.org/"), Ok(()));
    }

    #[test]
    fn what_the_operator_allows_is_reached() {
        let reach = Reach { networks: vec!["127.0.0.0/8".parse().unwrap()], ..open() };
        assert_eq!(reach.check("http://127.0.0.1:8080/"), Ok(()));
        assert_eq!(reach.check("http://2130706433/"), Ok(()));
        assert_eq!(reach.check("http://10.0.0.1/"), Err(Refused::Address));
    }
}
