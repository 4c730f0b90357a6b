//! AWS's errors, sorted into the categories the controller acts on.

use std::error::Error;

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::{display::DisplayErrorContext, metadata::ProvideErrorMetadata};
use plimsoll_provider::ProviderError;

use crate::credentials::AssumeError;

/// Codes by which AWS asks for fewer calls. EC2 uses the first; the other services have their own words.
const THROTTLED: &[&str] = &[
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "RequestThrottled",
    "RequestThrottledException",
    "PriorRequestNotComplete",
    "EC2ThrottledException",
];

/// Codes by which AWS says that a right is missing.
pub(crate) const DENIED: &[&str] = &[
    "UnauthorizedOperation",
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "UnauthorizedException",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
];

/// Codes by which AWS says that something does not exist.
const NOT_FOUND: &[&str] = &[
    "InvalidCapacityReservationId.NotFound",
    "InvalidInstanceID.NotFound",
    "InvalidLaunchTemplateName.NotFoundException",
    "InvalidLaunchTemplateId.NotFound",
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
    "NoSuchEntity",
    "ParameterNotFound",
    "ResourceNotFoundException",
];

/// The code AWS gave, or an empty text when the call failed before an answer.
pub(crate) fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> &str {
    error.as_service_error().and_then(E::code).unwrap_or_default()
}

pub(crate) fn is_not_found<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    NOT_FOUND.contains(&code(error))
}

/// The category of a failed call; `action` is the IAM name of the call, e.g. `ec2:CreateFleet`, so that a missing right
/// can be granted by what the message says.
pub(crate) fn provider_error<E, R>(action: &str, error: &SdkError<E, R>) -> ProviderError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    let Some(service) = error.as_service_error() else {
        return match refused_role(error) {
            Some(refusal) => ProviderError::Denied(format!("{action}: {refusal}")),
            None => ProviderError::Transient(format!("{action}: {}", DisplayErrorContext(error))),
        };
    };
    of_code(
        action,
        service.code().unwrap_or_default(),
        service.message().unwrap_or_default(),
    )
}

/// Why the call was not made at all: the role that should make it can no longer be assumed.
fn refused_role<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a AssumeError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref() {
            Some(refusal @ AssumeError::Denied(_)) => return Some(refusal),
            _ => cause = error.source(),
        }
    }
    None
}

/// The category of an error that came as a code and a message.
pub(crate) fn of_code(action: &str, code: &str, message: &str) -> ProviderError {
    let text = format!("{action}: {code}: {message}");
    if THROTTLED.contains(&code) {
        ProviderError::Throttled(text)
    } else if DENIED.contains(&code) {
        ProviderError::Denied(text)
    } else if let Some(reason) = invalid_reason(code, message) {
        ProviderError::Invalid {
            reason,
            message: text,
        }
    } else {
        ProviderError::Transient(text)
    }
}

/// The reason of the Launched condition for requests that are wrong in themselves, by Karpenter's names.
fn invalid_reason(code: &str, message: &str) -> Option<&'static str> {
    let says = |words: &str| message.contains(words);
    Some(match code {
        "InvalidAMIID.NotFound" => "AMINotFound",
        "InvalidAMIID.Malformed" | "InvalidAMIID.Unavailable" => "InvalidAMIID",
        "InvalidParameterValue" | "InvalidFleetConfiguration" if says("Invalid IAM Instance Profile") => {
            "InstanceProfileNameInvalid"
        }
        "InvalidParameterValue" if says("User data is limited") => "UserDataSizeLimitExceeded",
        "InvalidUserData.Malformed" => "UserDataSizeLimitExceeded",
        "InvalidParameter" if says("belong to different networks") => "SecurityGroupSubnetVPCMismatch",
        "PendingVerification" => "AccountPendingVerification",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_categories_that_keep_the_action() {
        let cases = [
            ("RequestLimitExceeded", "slow down", "RequestLimitExceeded"),
            ("UnauthorizedOperation", "no", "Unauthorized"),
            ("InvalidAMIID.NotFound", "no such image", "AMINotFound"),
            (
                "InvalidParameterValue",
                "Value (x) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
                "InstanceProfileNameInvalid",
            ),
            ("InvalidParameterValue", "something else", "LaunchFailed"),
            ("InternalError", "oops", "LaunchFailed"),
        ];
        for (code, message, category) in cases {
            let error = of_code("ec2:CreateFleet", code, message);
            assert_eq!(error.category(), category, "{code}: {message}");
            assert!(error.to_string().contains("ec2:CreateFleet"), "{error}");
        }
    }
}
