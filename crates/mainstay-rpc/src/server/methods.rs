//! The closed set of methods that may become a metric label or a span name.

use std::collections::HashSet;
use std::sync::LazyLock;

use prost::Message as _;
use prost_types::FileDescriptorSet;

const HEALTH: &str = "/grpc.health.v1.Health/";
const INTROSPECTION: &str = "/mainstay.introspect.v1.Introspection/";
const REFLECTION: &str = "/grpc.reflection.";
const STANDARD: [&str; 4] = [
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
const UNKNOWN: &str = "unknown";

/// A constant of the build: every method of `proto/`, read from the compiled descriptors.
static KNOWN: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(mainstay_proto::FILE_DESCRIPTOR_SET)
        .expect("the build script wrote a descriptor set")
        .file;
    let mut known: HashSet<String> = STANDARD.map(str::to_owned).into();
    for file in &files {
        for service in &file.service {
            let prefix = format!("{}.{}/", file.package(), service.name());
            known.extend(service.method.iter().map(|method| format!("{prefix}{}", method.name())));
        }
    }
    known
});

/// Returns `package.Service/Method` of a known method, else `unknown`.
pub(super) fn label(path: &str) -> &'static str {
    path.strip_prefix('/').and_then(|method| KNOWN.get(method)).map_or(UNKNOWN, String::as_str)
}

pub(super) fn is_health(path: &str) -> bool {
    path.starts_with(HEALTH)
}

/// Tells whether a request asks how the service is, which must be answered just when it is not well.
pub(super) fn is_about_service(path: &str) -> bool {
    is_health(path) || path.starts_with(INTROSPECTION)
}

pub(super) fn is_reflection(path: &str) -> bool {
    path.starts_with(REFLECTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_of_the_contracts_are_named() {
        let cases = [
            ("/mainstay.cache.v1.CacheService/Get", "mainstay.cache.v1.CacheService/Get"),
            (
                "/mainstay.introspect.v1.Introspection/Describe",
                "mainstay.introspect.v1.Introspection/Describe",
            ),
            ("/grpc.health.v1.Health/Check", "grpc.health.v1.Health/Check"),
            ("/mainstay.cache.v1.CacheService/Get/", "unknown"),
            ("mainstay.cache.v1.CacheService/Get", "unknown"),
            ("/mainstay.cache.v1.CacheService/user-42", "unknown"),
            ("/", "unknown"),
        ];
        for (path, expected) in cases {
            assert_eq!(label(path), expected, "{path}");
        }
    }
}
