//! Numbers that tests draw: the same every time.

/// Draws numbers below the one it is asked for.
pub(crate) fn draws(mut seed: u64) -> impl FnMut(u64) -> i64 {
    move |below| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 33) % below) as i64
    }
}
