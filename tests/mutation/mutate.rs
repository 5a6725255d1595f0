//! Mutations as fuzzers make them: bytes changed, removed, repeated, and parts of other seeds put in.

/// Numbers at which code breaks, as bytes and as text.
const EDGES: &[&[u8]] = &[
    b"\0",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"-1",
    b"0",
    b"18446744073709551615",
    b"9223372036854775808",
    b"1e999",
    b"null",
    b"[",
    b"{",
    b"\"",
    b"\n",
    b"&a",
    b"*a",
];
const INPUT_BYTES_MAX: usize = 16 * 1024;

pub struct Mutator<'a> {
    seeds: &'a [Vec<u8>],
    /// State of a xorshift generator, never 0.
    state: u64,
}

impl<'a> Mutator<'a> {
    pub fn new(seeds: &'a [Vec<u8>]) -> Mutator<'a> {
        Mutator { seeds, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// A seed with one to eight mutations.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.seed().to_vec();
        for _ in 0..=self.below(8) {
            self.mutate(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let end = (at + self.below(24)).min(input.len());
        let part = match self.below(6) {
            0 => Vec::new(),
            1 => input[at..end].repeat(2),
            2 => EDGES[self.below(EDGES.len())].to_vec(),
            3 => self.piece_of_a_seed(),
            _ => input[at..end].iter().map(|byte| byte ^ (1 << self.below(8))).collect(),
        };
        input.splice(at..end, part);
    }

    fn piece_of_a_seed(&mut self) -> Vec<u8> {
        let seed = self.seed();
        let at = self.below(seed.len() + 1);
        let end = (at + self.below(64)).min(seed.len());
        seed[at..end].to_vec()
    }

    fn seed(&mut self) -> &'a [u8] {
        &self.seeds[self.below(self.seeds.len())]
    }

    fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % end as u64) as usize
    }
}
