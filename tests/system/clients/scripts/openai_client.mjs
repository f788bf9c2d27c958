// The npm package openai: `node openai_client.mjs URL`.
import assert from "node:assert/strict";
import OpenAI from "openai";

const url = process.argv[2];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "local", maxRetries: 0 });
const messages = [{ role: "user", content: "What is hypertension?" }];
const mark = "not medical advice";

const cases = {
  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert(ids.includes("edgelora-tiny") && ids.includes("medical-faq"));
    const one = await client.models.retrieve("edgelora-tiny:medical-faq");
    assert.equal(one.id, "edgelora-tiny:medical-faq");
  },
  async chat() {
    const made = await client.chat.completions.create({ model: "medical-faq", messages });
    assert(made.choices[0].message.content.includes(mark));
    assert.equal(made.usage.total_tokens, made.usage.prompt_tokens + made.usage.completion_tokens);
  },
  async streaming() {
    const options = { model: "medical-faq", messages, stream: true, stream_options: { include_usage: true } };
    let text = "";
    let usage = null;
    for await (const chunk of await client.chat.completions.create(options)) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert(text.includes(mark) && usage.completion_tokens > 0);
  },
  async the_stream_helper() {
    const final = await client.chat.completions.stream({ model: "medical-faq", messages }).finalChatCompletion();
    assert(final.choices[0].message.content.includes(mark));
  },
  async tools() {
    const parameters = { type: "object", properties: { town: { enum: ["Bonn", "Ulm"] } }, required: ["town"], additionalProperties: false };
    const tools = [{ type: "function", function: { name: "get_weather", description: "Weather.", parameters } }];
    const made = await client.chat.completions.create({ model: "edgelora-tiny", messages, tools, tool_choice: "required", parallel_tool_calls: false });
    const call = made.choices[0].message.tool_calls[0];
    assert(["Bonn", "Ulm"].includes(JSON.parse(call.function.arguments).town));
    assert.equal(made.choices[0].finish_reason, "tool_calls");
  },
  async json_schema() {
    const schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"], additionalProperties: false };
    const response_format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
    const made = await client.chat.completions.create({ model: "edgelora-tiny", messages, response_format });
    assert.equal(typeof JSON.parse(made.choices[0].message.content).ok, "boolean");
  },
  async responses() {
    const first = await client.responses.create({ model: "medical-faq", input: "What is hypertension?" });
    assert(first.output_text.includes(mark));
    const kinds = [];
    const stream = await client.responses.create({ model: "pirate", input: "And?", previous_response_id: first.id, stream: true });
    for await (const event of stream) kinds.push(event.type);
    assert.equal(kinds[0], "response.created");
    assert.equal(kinds.at(-1), "response.completed");
    await client.responses.delete(first.id);
    await assert.rejects(client.responses.retrieve(first.id), { status: 404, code: "response_not_found" });
  },
  async errors() {
    await assert.rejects(client.chat.completions.create({ model: "nobody", messages }), { status: 404, code: "model_not_found" });
    await assert.rejects(client.chat.completions.create({ model: "sql", messages: [] }), { status: 400, param: "messages" });
  },
};

let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  try {
    await run();
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
