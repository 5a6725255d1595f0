#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::index_file::run(data));
