#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    resnet_by_hand_fuzz::picture(input);
});
