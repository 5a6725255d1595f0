//! Networks, as `10.0.0.0/8`, and which of them are nobody's to be sent to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    const fn v4(a: u8, b: u8, c: u8, prefix: u32) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), prefix }
    }

    const fn v6(a: u16, b: u16, c: u16, prefix: u32) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), prefix }
    }

    /// An IPv4 address in its IPv6 spelling is the same address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differs = u32::from(network) ^ u32::from(address);
                differs.checked_shr(32 - self.prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differs = u128::from(network) ^ u128::from(address);
                differs.checked_shr(128 - self.prefix).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// An address alone is a network of one.
impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no network, as 10.0.0.0/8 or fd00::/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), str::parse::<u32>).map_err(|_| wrong())?;
        if prefix > bits || address != address.to_canonical() {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

/// From the registries of special addresses of IANA, with what clouds use for themselves.
const REFUSED_V4: [Network; 16] = [
    // this network, and the unspecified address
    Network::v4(0, 0, 0, 8),
    Network::v4(10, 0, 0, 8),
    // of carriers, and of some clouds' metadata
    Network::v4(100, 64, 0, 10),
    Network::v4(127, 0, 0, 8),
    // link-local, and most clouds' metadata
    Network::v4(169, 254, 0, 16),
    Network::v4(172, 16, 0, 12),
    Network::v4(192, 0, 0, 24),
    // documentation
    Network::v4(192, 0, 2, 24),
    Network::v4(198, 51, 100, 24),
    Network::v4(203, 0, 113, 24),
    // the relays of 6to4
    Network::v4(192, 88, 99, 24),
    Network::v4(192, 168, 0, 16),
    // benchmarks
    Network::v4(198, 18, 0, 15),
    // multicast, and reserved up to the broadcast address
    Network::v4(224, 0, 0, 4),
    Network::v4(240, 0, 0, 4),
    // public by its number, and the inside of a cloud
    Network { address: IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), prefix: 32 },
];

/// All that is given out to be reached.
const GLOBAL_V6: Network = Network::v6(0x2000, 0, 0, 3);

/// What of that is for something else.
const REFUSED_V6: [Network; 4] = [
    // protocols: Teredo, ORCHID, benchmarks
    Network::v6(0x2001, 0, 0, 23),
    // documentation
    Network::v6(0x2001, 0xdb8, 0, 32),
    Network::v6(0x3fff, 0, 0, 20),
    // 6to4, which hides an IPv4 address
    Network::v6(0x2002, 0, 0, 16),
];

/// The prefix of NAT64: behind it is the IPv4 address in the last four bytes.
const NAT64: Network = Network::v6(0x64, 0xff9b, 0, 96);

/// Whether anybody in the internet may be meant by it.
pub(crate) fn is_global(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(_) => !REFUSED_V4.iter().any(|network| network.contains(address)),
        IpAddr::V6(v6) if NAT64.contains(address) => {
            let [.., a, b, c, d] = v6.octets();
            is_global(Ipv4Addr::new(a, b, c, d).into())
        }
        IpAddr::V6(_) => GLOBAL_V6.contains(address) && !REFUSED_V6.iter().any(|network| network.contains(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_out_to_be_reached_is_global() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "192.168.255.255",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::8.8.8.8",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_global(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "128.0.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "168.63.129.17",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00::1",
            "3ffe::1",
        ] {
            assert!(is_global(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_network_is_read_and_has_its_addresses() {
        let has = |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(has("10.0.0.0/8", "10.1.2.3") && !has("10.0.0.0/8", "11.0.0.0"));
        assert!(has("127.0.0.1", "127.0.0.1") && !has("127.0.0.1", "127.0.0.2"));
        assert!(has("127.0.0.0/8", "::ffff:127.0.0.1"));
        assert!(has("fd00::/8", "fd12::1") && !has("fd00::/8", "fe00::1"));
        assert!(has("0.0.0.0/0", "8.8.8.8") && !has("0.0.0.0/0", "2a00::1") && has("::/0", "2a00::1"));
        for wrong in ["", "/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", "host/8", "::ffff:10.0.0.0/104"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong:?}");
        }
    }
}
