#!/usr/bin/env bash
# Tries the governor in your own account: builds, deploys, loads it, crashes workers, collects summary.json, and deletes.
# It costs some $0.10 an hour while it runs, and takes about an hour, most of it RDS and the network's removal.
#
#   harness/on_aws.sh                                  a made database and network
#   harness/on_aws.sh DatabaseEndpoint=... VpcId=...   any other parameters of template.yaml
#
# Environment: AWS credentials and region as for the AWS CLI; STACK (governor-trial); ITERATIONS, CONCURRENCY, SEED;
# KEEP=1 leaves the stack. A new account may run only 10 functions at once: CONCURRENCY=6 there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PATH=$PWD/build/tools/uv/bin:$PATH  # with it the layers are built as the tests build them
export STACK=${STACK:-governor-trial}
built=build/on-aws/built
[ "$#" -gt 0 ] || set -- CreateDatabase=true DataOnDelete=remove

make .venv/.synced
sam=$(command -v sam || echo build/tools/sam/bin/sam)
"$sam" --version >/dev/null || { echo "sam is missing: pip install aws-sam-cli" >&2; exit 1; }

clean_up() {
    status=$?
    if [ -z "${KEEP:-}" ]; then
        echo "Deleting $STACK ..."
        "$sam" delete --stack-name "$STACK" --no-prompts || echo "It could not be deleted: do it by hand, it costs." >&2
        echo "What stays: layer versions ($STACK-governor, $STACK-powertools), and a final snapshot of a made database."
    fi
    exit "$status"
}

"$sam" build --template-file template.yaml --build-dir "$built"
trap clean_up EXIT
"$sam" deploy --template-file "$built/template.yaml" --stack-name "$STACK" --resolve-s3 --capabilities CAPABILITY_IAM \
    --no-confirm-changeset --no-fail-on-empty-changeset --no-progressbar --parameter-overrides "$@"
.venv/bin/python -m harness on-aws
