// Stream an answer in Node: npm install openai; node examples/node.mjs "What is hypertension?"
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8321/v1",
  apiKey: "local",
});

const stream = await client.chat.completions.create({
  model: process.env.MODEL ?? "medical-faq",
  messages: [{ role: "user", content: process.argv[2] ?? "What is hypertension?" }],
  stream: true,
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
process.stdout.write("\n");
