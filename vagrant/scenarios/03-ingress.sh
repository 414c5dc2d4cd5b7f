#!/bin/sh
# One door: an Ingress leads by host and path to two Services, and follows when their pods change.
. "$(dirname "$0")/lib.sh"
begin
mend="kubectl delete ingressclass $space --ignore-not-found"
kubectl apply -f - >/dev/null <<YAML
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: $space}
spec: {controller: netplane.io/ingress}
YAML

deploy blue 2
deploy green 1
client asker "$(nodes | head -n 1)"
all_up
k apply -f - >/dev/null <<YAML
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: door}
spec:
  ingressClassName: $space
  rules:
    - host: door.example
      http:
        paths:
          - {path: /, pathType: Prefix, backend: {service: {name: blue, port: {name: http}}}}
          - {path: /green, pathType: Prefix, backend: {service: {name: green, port: {name: http}}}}
YAML
address() { k get ingress door -o 'jsonpath={.status.loadBalancer.ingress[0].ip}'; }
has_address() { [ -n "$(address)" ]; }
waited=0
until has_address; do
  [ "$waited" -lt 30 ] || { echo "   not here: no netplane ingress serves this cluster"; exit 77; }
  waited=$((waited + 1)); sleep 1
done
door=$(address)
leads() { ask asker "$door" 80 "$1" door.example | grep -q "^$2-"; }
until_true 60 leads / blue
until_true 60 leads /green green
until_true 60 leads /greenish blue
say "http://$(in_url "$door") leads by path to blue and to green"
k rollout restart deployment/green >/dev/null
k rollout status deployment/green --timeout=240s >/dev/null
until_true 60 leads /green green
say "and follows a rolling update"
