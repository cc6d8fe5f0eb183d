//! Who is this? TokenReview about a token, SelfSubjectReview about whoever asks.

use serde_json::{Value, json};

use super::user_info;
use crate::apiserver::status::ApiError;
use crate::apiserver::verbs::Call;
use crate::kinds::common::{list, text};

/// What a token stands for. One that is not believed is an answer, not an error.
pub fn token(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let token = text(review, "/spec/token");
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = list(review, "/spec/audiences");
    let wanted: Vec<String> = audiences.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(match call.server.believe(token, &wanted) {
        Ok(believed) => {
            let audiences = if wanted.is_empty() { Value::Null } else { believed.audiences.into() };
            json!({"authenticated": true, "user": user_info(&believed.user), "audiences": audiences})
        }
        Err(why) => json!({"error": why}),
    })
}

pub fn own(call: &Call) -> Value {
    json!({"userInfo": user_info(&call.user)})
}
