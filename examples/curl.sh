#!/bin/sh
# List the models, then stream an answer: sh examples/curl.sh "What is hypertension?"
base=${OPENAI_BASE_URL:-http://127.0.0.1:8321/v1}
question=${1:-What is hypertension?}

curl -sS --fail-with-body "$base/models"
echo

curl -sSN --fail-with-body "$base/chat/completions" \
  -H "Content-Type: application/json" \
  -d "{\"model\": \"medical-faq\", \"stream\": true, \"messages\": [{\"role\": \"user\", \"content\": \"$question\"}]}"
