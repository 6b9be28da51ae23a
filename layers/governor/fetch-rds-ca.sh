#!/bin/sh
# Replaces the bundled certificate authorities of Amazon RDS by the ones that AWS publishes today.
set -eu
bundle="$(dirname "$0")/connection_governor/mysql/rds-ca-bundle.pem"
curl --fail --silent --show-error --output "$bundle.new" https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem
openssl x509 -noout -in "$bundle.new"  # refuse anything that is no certificate, such as a proxy's error page
mv "$bundle.new" "$bundle"
